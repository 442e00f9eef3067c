"""Commands on a CUDA device: on one that is not there (see fake_cuda), and with `pytest -m gpu` on a real one.

On the one that is not there: no mixture of devices, no wait inside a step, every copy of a step pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES
from fake_cuda import CudaTensor, Seen, fake_cuda
from quick_distill import DEMO_TEACHER, QUICK, quick
from refusals import refuses
from safetensors.numpy import load_file

from dhox import export
from dhox.artefacts.arrays import read_npz
from dhox.distill import run
from dhox.distill.auditing.audit import audit
from dhox.distill.compare_methods import compare
from dhox.distill.images import student_inputs
from dhox.distill.options import DistillOptions
from dhox.distill.small_options import AuditOptions, CacheOptions, ImportOptions
from dhox.distill.students.import_dho import import_dho
from dhox.distill.teachers.cache_upkeep import fill
from dhox.distill.training import train
from dhox.export.graphs.torch_session import TorchSession
from dhox.options.declare import build

SLOW = pytest.mark.slow
Device = Callable[[], AbstractContextManager[Seen]]


@pytest.fixture(params=["not there", pytest.param("real", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    """A device to enter; what is seen of a real one stays empty."""
    return fake_cuda if request.param == "not there" else lambda: nullcontext(Seen())


def on_cuda(**options: object) -> dict[str, object]:
    """Options of a quick training on a device."""
    return {"device": "cuda", "compiled": False, "shots": 4, "epochs": 2, **options}


def assert_no_step_waits(seen: Seen) -> None:
    assert seen.steps >= 4
    assert seen.operators > 100 * seen.steps, "the device computed nothing"
    assert not seen.waits(step=True)
    assert not seen.copies(step=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "kd", "packed_size": 0, "shots": None},
        pytest.param({"precision": "32-true"}, marks=SLOW),
        pytest.param({"workers": 2}, marks=SLOW),
        pytest.param({"online_teacher": True}, marks=SLOW),
        pytest.param({"adapter": "tip-f"}, marks=SLOW),
        pytest.param({"kd_head": "cosine-code"}, marks=SLOW),
        pytest.param({"student": "test_vit", "image_size": 32, "top_k": 2}, marks=SLOW),
        pytest.param(
            {"student": f"open_clip:{DEMO_TEACHER}", "student_weights": "pretrained", "init_heads": "text"}, marks=SLOW
        ),
        pytest.param({"method": "ce"}, marks=SLOW),
        pytest.param({"method": "sho"}, marks=SLOW),
        pytest.param({"balance_labels": True, "tune_on": "held-out"}, marks=SLOW),
    ],
    ids=lambda options: " ".join(f"{name}={str(value)[:12]}" for name, value in options.items()) or "plain",
)
def test_a_step_makes_the_host_wait_nowhere(line: Path, options: dict[str, object]) -> None:
    with fake_cuda() as seen:
        result = quick(line / "data", **on_cuda(**options))
    assert_no_step_waits(seen)
    assert result.summary.training.device.startswith("cuda")
    assert result.summary.training.precision == options.get("precision", "bf16-mixed")


@pytest.mark.parametrize(("share", "copies"), [(0.5, 3), (0.0, 4)], ids=["on the device", "in host memory"])
def test_images_that_do_not_fit_are_copied_without_waiting(
    line: Path, monkeypatch: pytest.MonkeyPatch, share: float, copies: int
) -> None:
    monkeypatch.setattr(student_inputs, "DEVICE_SHARE", share)
    with fake_cuda() as seen:
        quick(line / "data", **on_cuda())
    assert_no_step_waits(seen)
    assert seen.fast_copies >= copies * seen.steps  # numbers, boxes, targets, and the images


def test_what_is_seen_can_be_seen(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters see a wait and a blocking copy inside a step."""
    loss = train.training_loss

    def waiting(ce: torch.Tensor, *args: object, **kwargs: object) -> object:
        if not isinstance(ce.mean().item(), float):
            raise AssertionError
        return loss(ce + torch.zeros(2, 1).sum().to(ce.device), *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "training_loss", waiting)
    with fake_cuda() as seen:
        quick(line / "data", **on_cuda())
    assert sum(seen.waits(step=True).values()) == seen.steps
    assert sum(seen.copies(step=True).values()) == seen.steps


def test_the_numbers_are_those_of_the_cpu(line: Path, device: Device) -> None:
    here = quick(line / "data", "runs/cpu", shots=4, epochs=2, learning_rate=1e-3)  # a high rate magnifies rounding
    with device():
        there = quick(line / "data", "runs/cuda", **on_cuda(precision="32-true", learning_rate=1e-3))
    for name in ("val.npz", "test.npz"):
        a, b = (read_npz(result.run / name)["kd_logits"] for result in (here, there))
        assert np.abs(a - b).max() < 0.1 * a.std()


@pytest.mark.slow
def test_images_on_the_device_train_as_those_in_host_memory(
    line: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = []
    for share in (0.5, 0.0):
        monkeypatch.setattr(student_inputs, "DEVICE_SHARE", share)
        with device():
            result = quick(line / "data", f"runs/{share}", **on_cuda())
        logits.append(read_npz(result.run / "val.npz")["kd_logits"])
    assert np.abs(logits[0] - logits[1]).max() < 0.05 * logits[0].std()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.gpu)])
@pytest.mark.slow
def test_a_training_goes_on_after_a_stop(
    line: Path, device: Device, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = on_cuda(epochs=3, compiled=compiled)
    save = train.save_checkpoint

    def stopping(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_checkpoint", stopping)
    with device(), pytest.raises(KeyboardInterrupt):
        quick(line / "data", "runs/stopped", **options)
    monkeypatch.setattr(train, "save_checkpoint", save)
    with device() as seen:
        resumed = quick(line / "data", "runs/stopped", **options, resume=True)
        unbroken = quick(line / "data", "runs/unbroken", **options)
    assert not seen.waits(step=True)
    assert not seen.copies(step=True)
    a, b = (read_npz(result.run / "val.npz")["kd_logits"] for result in (resumed, unbroken))
    assert np.abs(a - b).max() < 0.05 * a.std()


@pytest.mark.slow
def test_gradients_are_probed(line: Path, device: Device) -> None:
    with device() as seen:
        result = quick(line / "data", **on_cuda(probe_gradients=2))
    assert len((result.run / "gradients.csv").read_text().splitlines()) > 1
    assert not seen.copies(step=True)


@pytest.mark.slow
def test_a_checkpoint_waits_for_the_device_once(line: Path) -> None:
    with fake_cuda() as seen:
        quick(line / "data", **on_cuda())
    of_checkpoints = [event for event in seen.events if "training.checkpoint" in event.where]
    assert len(of_checkpoints) == 2  # epochs


def test_the_cache_holds_what_the_cpu_computes(line: Path, device: Device) -> None:
    content = {"teacher": DEMO_TEACHER, "views": 2, "workers": 0}
    fill(line / "data", Path("cpu"), build(CacheOptions, device="cpu", **content))
    with device():
        fill(line / "data", Path("cuda"), build(CacheOptions, device="cuda", **content))
    a, b = (rows_of(Path(name)) for name in ("cpu", "cuda"))
    assert a
    assert a.keys() == b.keys()
    for name, rows in a.items():
        cosine = (rows * b[name]).sum(-1) / np.linalg.norm(rows, axis=-1) / np.linalg.norm(b[name], axis=-1)
        assert cosine.min() > 0.999


def rows_of(root: Path) -> dict[str, np.ndarray]:
    """The embeddings of every file of a cache."""
    return {
        str(file.relative_to(root)): load_file(file)["rows"].astype(np.float32)
        for file in sorted(root.rglob("*.safetensors"))
    }


@pytest.mark.slow
def test_an_audit_looks_through_the_device(line: Path, device: Device) -> None:
    options = {"teacher": DEMO_TEACHER, "workers": 0, "shots": 4}
    here = audit(line / "data", Path("cpu"), build(AuditOptions, device="cpu", **options))
    with device():
        there = audit(line / "data", Path("cuda"), build(AuditOptions, device="cuda", **options))
    for a, b in zip(here.ways, there.ways, strict=True):
        assert (a.way, a.model) == (b.way, b.model)
        assert abs(a.accuracy - b.accuracy) < 0.05


@pytest.mark.slow
def test_methods_are_compared(line: Path) -> None:
    options = build(DistillOptions, **QUICK | on_cuda(method="dho,ce"))
    with fake_cuda() as seen:
        compare(line / "data", Path("runs/compared"), options)
    assert not seen.waits(step=True)
    assert not seen.copies(step=True)


@pytest.mark.slow
def test_a_checkpoint_of_the_authors_is_imported(line: Path, device: Device) -> None:
    names = Path("classes.txt")
    names.write_text("\n".join(CLASSES))
    torch.save({"model_state_dict": authors_resnet(len(CLASSES))}, "authors.pt")
    options = build(ImportOptions, arch="resnet18", classes=str(names), data=line / "data", workers=0)
    with device():
        result = import_dho(Path("authors.pt"), Path("imported"), options)
    assert np.isfinite(read_npz(result.run / "val.npz")["kd_logits"]).all()


def authors_resnet(classes: int) -> dict[str, torch.Tensor]:
    """State of the authors' StudentModel around torchvision's ResNet-18."""
    import torchvision

    torch.manual_seed(0)
    backbone = torch.nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    for head in ("ce_head", "kd_head"):
        layer = torch.nn.Linear(512, classes)
        state |= {f"{head}.weight": layer.weight.data, f"{head}.bias": layer.bias.data}
    return state


@pytest.mark.slow
def test_a_run_of_the_device_is_exported(line: Path, device: Device) -> None:
    with device():
        result = quick(line / "data", **on_cuda())
    exported = export(result.run, Path("export"), fp16=True)
    assert exported.manifest.checks


def test_torch_answers_on_the_device_as_on_the_cpu(device: Device) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.Softmax(-1))
    batch = np.random.default_rng(0).random((4, 3, 2, 2), np.float32)
    expected = TorchSession(module).infer(batch)
    with device():
        session = TorchSession(module, "cuda")
        session.bind(batch)
        session.run()
        np.testing.assert_allclose(session.infer(batch), expected, atol=1e-5)


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = run.train

    def with_little_memory(*args: object) -> None:
        torch.cuda.empty_cache()
        few = torch.cuda.memory_reserved() + (24 << 20)
        torch.cuda.set_per_process_memory_fraction(few / torch.cuda.get_device_properties(0).total_memory)
        training(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "train", with_little_memory)
    try:
        with refuses("Out of memory", at="distill.training.out_of_memory", fix="--batch-unlabelled"):
            quick(line / "data", **on_cuda(image_size=224, batch_unlabelled=64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def fake() -> Iterator[Seen]:
    """The device that is not there."""
    with fake_cuda() as seen:
        yield seen


REFUSED = {
    "two devices": (lambda: torch.ones(2, device="cuda") + torch.ones(2), "same device"),
    "a generator of the host": (
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()), "'cuda' device type for generator"
    ),
    "numpy of a device tensor": (lambda: torch.ones(2, device="cuda").numpy(), "can't convert cuda:0"),
    "pinning a device tensor": (lambda: torch.ones(2, device="cuda").pin_memory(), "cannot pin"),
    "an index of the device into a tensor of the host": (
        lambda: torch.ones(2)[torch.zeros(1, dtype=torch.long, device="cuda")], "same device"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_device_that_is_not_there_refuses_what_cuda_refuses(fake: Seen, name: str) -> None:
    mistake, words = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError), match=words):
        mistake()


def test_the_device_that_is_not_there_takes_what_cuda_takes(fake: Seen) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3).cuda())
    loss = (weight * 2 + torch.tensor(1.0)).sum()  # a number of the host
    loss.backward()
    assert isinstance(weight.grad, CudaTensor)
    assert weight.grad.cpu().tolist() == [[2.0] * 3] * 2
    assert float(loss) == 18
    assert len(fake.waits()) == 2  # .cpu() and float()
    pinned = torch.ones(4).pin_memory()
    assert pinned.to("cuda", non_blocking=True).device.type == "cuda"
    assert fake.fast_copies == 1

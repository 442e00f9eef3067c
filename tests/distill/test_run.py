from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric
from PIL import Image
from quick_distill import DEMO_TEACHER, quick, without
from refusals import refuses
from safetensors import safe_open
from safetensors.numpy import load_file

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.artefacts.run_directory import open_run
from dhox.data.dataset import read_dataset
from dhox.distill.results.evaluate import pixel_loader, predict_logits
from dhox.distill.results.retune import retune
from dhox.distill.students.student import load_student
from dhox.distill.training.train import DivergedError
from dhox.errors import DhoxError, UsageError


def nothing_but_caches() -> bool:
    return {path.name for path in Path("runs").glob("*")} <= {"cache"}


def test_the_run_directory_holds_the_contract(line: Path) -> None:
    run = line / "runs/tiny"
    assert {path.name for path in run.iterdir()} >= {
        "run.json", "student.safetensors", "selection.json", "val.npz", "test.npz", "metrics.csv", "tensorboard",
    }  # fmt: skip
    summary, selection = (json.loads((run / name).read_text()) for name in ("run.json", "selection.json"))
    assert summary["status"] == "complete"
    assert summary["classes"][3] == {"id": 3, "name": "trousers", "prompt": "trousers"}
    sets = summary["sets"]
    assert (sets["n_labelled"], sets["n_unlabelled"], sets["n_validation"], sets["n_test"]) == (32, 64, 80, 48)
    assert [row["stage"] for row in summary["test"]] == ["teacher", "ce_head", "kd_head", "dho_fixed", "dho"]
    assert (selection["source"], selection["searched"], selection["n_selection_labels"]) == ("val", True, 80)
    assert not set(sets["labelled"]) & set(sets["validation"])
    test = read_npz(run / "test.npz")
    assert test["ce_logits"].shape == (48, 4)
    kd = next(row for row in summary["test"] if row["stage"] == "kd_head")
    assert kd["correct"] == (test["kd_logits"].argmax(-1) == test["labels"]).sum()
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 9)]
    assert float(rows[-1]["ce_loss"]) < float(rows[0]["ce_loss"])
    assert float(rows[-1]["kd_loss"]) < float(rows[0]["kd_loss"])


def test_same_seed_same_bits_other_seed_other_bits(line: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        quick(line / "data", f"runs/{name}", shots=4, seed=seed)
    digests = [sha256(Path(f"runs/{name}/student.safetensors")) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    labelled = [json.loads(Path(f"runs/{name}/run.json").read_text())["sets"]["labelled"] for name in "abc"]
    assert labelled[0] == labelled[1] == labelled[2]


@pytest.mark.parametrize("method", ["ce", "sho", "kd"])
def test_baselines_have_one_head(line: Path, method: str) -> None:
    result = quick(line / "data", method=method, shots=None if method == "kd" else 4)
    weights = load_file("runs/x/student.safetensors")
    assert not [name for name in weights if name.startswith("kd_head")]
    stages = [row.stage for row in result.summary.test]
    assert stages == (["student"] if method == "ce" else ["teacher", "student"])
    assert result.summary.sets.n_labelled == (0 if method == "kd" else 16)


def test_kd_needs_no_label(line: Path) -> None:
    data = without(line / "data", "val", "test")
    (data / "train").rename(data / "unlabelled")
    Path("classes.txt").write_text("bag\ndress\n")
    result = quick(data, method="kd", classes=Path("classes.txt"))
    assert result.summary.test is None
    assert result.summary.sets.n_unlabelled == 96


def test_without_val_labels_are_held_out_and_said(line: Path) -> None:
    result = quick(without(line / "data", "val"), shots=16)
    assert (result.selection.source, result.selection.n_validation) == ("held-out", 12)
    assert any("12 of the labelled images are held out" in note for note in result.summary.notes)
    assert not result.selection.searched  # 12 images are fewer than 50
    assert (result.selection.alpha, result.selection.beta) == (0.4, 0.5)
    assert read_npz(Path("runs/x/val.npz"))["unlabelled_ce_logits"].shape == (32, 4)
    assert result.selection.label_free.n == 32
    assert result.selection.label_free.dho_agrees_with.teacher is not None
    assert retune(Path("runs/x")).selection == result.selection


def test_too_few_labels_to_hold_out_keep_alpha_and_beta_fixed(line: Path) -> None:
    result = quick(without(line / "data", "val"), shots=4)
    assert (result.selection.source, result.selection.n_validation) == ("none", 0)
    assert any("stay fixed" in note for note in result.summary.notes)


def test_with_every_image_labelled_the_unlabelled_term_is_dropped_and_said(line: Path) -> None:
    result = quick(line / "data")
    assert result.summary.sets.n_unlabelled == 0
    assert any("no unlabelled image" in note for note in result.summary.notes)


def test_bad_images_are_named_and_counted_or_skipped(line: Path) -> None:
    data = without(line / "data")
    (data / "train/bag/bad.png").write_bytes((data / "train/bag/000.png").read_bytes()[:50])
    (data / "test/dress/text.jpg").write_text("no image")
    with refuses(2, 226, "test/dress/text.jpg", "train/bag/bad.png", at="distill.images.scan", fix="--skip-bad-images"):
        quick(data)
    assert nothing_but_caches()
    result = quick(data, shots=4, skip_bad_images=True)
    assert result.summary.sets.n_test == 48
    assert "2 unreadable images were skipped" in result.summary.notes


def test_images_of_every_mode_train(line: Path) -> None:
    data = without(line / "data")
    random = np.random.default_rng(0)
    for n, image in enumerate([
        Image.fromarray(random.integers(0, 256, (30, 33, 4), dtype=np.uint8), "RGBA"),
        Image.fromarray(random.integers(0, 65536, (31, 29), dtype=np.uint16)),
        Image.fromarray(random.integers(0, 256, (40, 30), dtype=np.uint8)).convert("P"),
    ]):  # fmt: skip
        image.save(data / f"train/bag/mode{n}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 24)).save(data / "train/dress/rotated.jpg", exif=exif)
    assert quick(data, shots=4).summary.sets.n_unlabelled == 96 + 4 - 16


@pytest.mark.parametrize(
    ("options", "at", "facts", "fix"),
    [
        ({"shots": 25}, "distill.images.samplers.draw_labelled", ["--shots 25", "bag (24)"], "--shots"),
        ({"student": "resnet19"}, "distill.students.student.check_student_name", ["'resnet19'"], "resnet18"),
        ({"teacher": "ViT-B-16/laion"}, "distill.teachers.teacher.split_name", ["'laion'"], "laion2b_s34b_b88k"),
        ({"precision": "bf16-true"}, "options.declare.checked", ["--precision 'bf16-true'"], "32-true, bf16-mixed"),
        ({"classes": Path("missing.txt")}, "data.dataset.read_class_file", ["missing.txt", "exist"], ()),
    ],
)
def test_wrong_options_write_nothing(line: Path, options: dict, at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=at, fix=fix, kind=UsageError if options.keys() & {"precision", "classes"} else DhoxError):
        quick(line / "data", **options)
    assert nothing_but_caches()


def test_cuda_that_is_not_there_is_an_error(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with refuses("--device cuda", at="distill.processes.create_fabric", fix="--device cpu"):
        quick(line / "data", device="cuda")


def test_an_old_run_survives_a_failed_overwrite(line: Path) -> None:
    quick(line / "data", shots=4)
    before = sha256(Path("runs/x/student.safetensors"))
    with refuses("runs/x", at="artefacts.files.check_output", fix="--overwrite"):
        quick(line / "data", shots=4)
    with refuses("--shots 99", "bag (24)", at="distill.images.samplers.draw_labelled", fix="--shots"):
        quick(line / "data", shots=99, overwrite=True)
    assert sha256(Path("runs/x/student.safetensors")) == before
    quick(line / "data", shots=4, seed=3, overwrite=True)
    assert sha256(Path("runs/x/student.safetensors")) != before
    assert sorted(path.name for path in Path("runs").iterdir()) == ["cache", "x"]


def test_a_diverged_training_names_the_step_and_its_images(line: Path) -> None:
    with refuses("epoch 1", at="distill.training", fix="--learning-rate", kind=DivergedError):
        quick(line / "data", shots=4, learning_rate=1e30, epochs=2)
    assert nothing_but_caches()


def test_a_training_that_diverges_later_keeps_its_last_good_checkpoint(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dhox.distill.training.train as module

    real = module.learning_rate_at
    monkeypatch.setattr(module, "learning_rate_at", lambda step, *rest: 1e30 if step >= 7 else real(step, *rest))
    with refuses("epoch 3", at="distill.training", fix=("epoch 2", "x.partial", "--resume"), kind=DivergedError):
        quick(line / "data", shots=4, epochs=4)
    with safe_open("runs/x.partial/checkpoint/checkpoint.safetensors", "np") as file:
        assert file.metadata()["step"] == "6"
        assert all(np.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    monkeypatch.setattr(module, "learning_rate_at", real)
    with refuses("--resume", "weight_decay", 0.0, at="distill.resume.earlier_state", fix="--resume"):
        quick(line / "data", shots=4, epochs=4, resume=True, learning_rate=1e-4, weight_decay=0.0)
    assert quick(line / "data", shots=4, epochs=4, resume=True, learning_rate=1e-4).summary.status == "complete"


def test_weights_that_diverge_in_the_last_step_are_never_a_finished_run(line: Path) -> None:
    with refuses("step 0", "epoch 1", at="distill.training", kind=DivergedError):
        quick(line / "data", shots=4, batch_unlabelled=500, learning_rate=1e39)
    assert nothing_but_caches()


def test_skipped_images_stay_skipped_down_the_line(line: Path) -> None:
    from dhox import export

    data = without(line / "data", "val")
    (data / "train/bag/00000.png").write_bytes(b"bad")
    quick(data, method="kd", skip_bad_images=True)
    manifest = export(Path("runs/x"), Path("e")).manifest
    assert manifest.skipped == ["train/bag/00000.png"]
    assert read_npz(Path("e/golden.npz"))["input"].shape[0] == 32


@pytest.mark.parametrize("student", ["test_resnet", f"open_clip:{DEMO_TEACHER}"])
def test_what_a_mixed_training_stores_is_fp32_of_its_weights(line: Path, student: str) -> None:
    heads = {"kd_head": "cosine-code", "init_heads": "text", "image_size": None} if student != "test_resnet" else {}
    result = quick(line / "data", shots=4, precision="bf16-mixed", device="cpu", student=student,
                   student_weights="none" if student == "test_resnet" else "pretrained", **heads)  # fmt: skip
    source = open_run(result.run)
    items = read_dataset(line / "data", labels=source.run.labels)["val"]
    look = source.run.preprocessing
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    found = predict_logits(
        fabric, load_student(result.run, source.run.student), pixel_loader(items, look, 0, fabric), len(items), look
    )
    np.testing.assert_allclose(source.validation.kd_logits, found.kd_logits, atol=1e-4)
    np.testing.assert_allclose(source.validation.ce_logits, found.ce_logits, atol=1e-4)
    top = np.sort(source.validation.kd_logits, axis=1)
    assert not (top[:, -1] == top[:, -2]).any()


@pytest.mark.gpu
def test_training_runs_on_cuda_in_mixed_precision(line: Path) -> None:
    result = quick(line / "data", shots=4, device="cuda", epochs=4)
    assert result.summary.training.device.startswith("cuda")
    assert result.summary.training.precision == "bf16-mixed"


@pytest.mark.slow
def test_a_compiled_training_is_the_same_up_to_rounding(line: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    plain = quick(line / "data", "runs/plain", shots=4, student="test_vit", image_size=32, learning_rate=1e-4)
    compiled = quick(
        line / "data", "runs/compiled", shots=4, student="test_vit", image_size=32, learning_rate=1e-4, compiled=True
    )
    a, b = (load_file(f"runs/{name}/student.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys()
    assert max(np.abs(a[name] - b[name]).max() for name in a) < 1e-3
    logits = [read_npz(result.run / "val.npz")["kd_logits"] for result in (plain, compiled)]
    np.testing.assert_allclose(*logits, atol=2e-2)

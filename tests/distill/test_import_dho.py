"""Checkpoints written as the authors' code writes them, against their formula computed with torch and open_clip alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import open_clip
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import CLASSES
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from plain_files import read_json
from torch import nn
from torchvision.transforms import v2

from dhox import export
from dhox.artefacts.arrays import read_npz
from dhox.artefacts.run import read_run
from dhox.data.images import model_input, normalise
from dhox.distill.results.outcome import RunResult
from dhox.distill.results.retune import retune
from dhox.distill.small_options import Chosen, ImportOptions
from dhox.distill.students import import_dho as module
from dhox.distill.students.dho_checkpoint import read_checkpoint
from dhox.distill.students.import_dho import known_classes
from dhox.distill.students.student import load_student
from dhox.distill.students.synthetic import COUNT
from dhox.errors import DhoxError
from dhox.models.classifier import load
from dhox.options.declare import build

TINY = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"width": 32, "heads": 2, "layers": 1},
}
TINY_RESNET = TINY | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}}


def import_dho(file: Path, out: Path, **options: object) -> RunResult:
    return module.import_dho(file, out, build(ImportOptions, **{"workers": 0} | options))


@pytest.fixture(autouse=True)
def tiny_architectures(tmp_path: Path) -> None:
    for name, config in (("dhoxtiny", TINY), ("dhoxtinyresnet", TINY_RESNET)):
        (tmp_path / f"{name}-quickgelu.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}-quickgelu.json")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))


def clip_student(config: dict[str, Any], classes: int, seed: int = 0) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """(the visual tower, the state dict of the authors' StudentModel around it)."""
    torch.manual_seed(seed)
    visual = open_clip.CLIP(**config).visual.eval()
    return visual, with_authors_heads(visual, classes, config["embed_dim"])


def with_authors_heads(backbone: nn.Module, classes: int, width: int) -> dict[str, torch.Tensor]:
    state = {f"backbone.{name}": part for name, part in backbone.state_dict().items()}
    for head in ("ce_head", "kd_head"):
        layer = nn.Linear(width, classes)
        state |= {f"{head}.weight": layer.weight.data, f"{head}.bias": layer.bias.data}
    return state


def authors_answer(
    z: torch.Tensor, state: dict[str, torch.Tensor], is_clip: bool, alpha: float, beta: float
) -> np.ndarray:
    ce = F.linear(z, state["ce_head.weight"], state["ce_head.bias"])
    kd = F.linear(F.normalize(z, dim=1) if is_clip else z, state["kd_head.weight"], state["kd_head.bias"])
    kd = 100 * kd if is_clip else kd
    answer: np.ndarray = (alpha * ce.softmax(-1) + (1 - alpha) * (kd / beta).softmax(-1)).detach().numpy()
    return answer


def with_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": part for name, part in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", [None, "model_state_dict", "student_model", "state_dict"])
def test_every_form_of_checkpoint_reads_the_same(key: str | None, prefix: str) -> None:
    state = clip_student(TINY, 4)[1]
    content = with_prefix(state, prefix)
    torch.save(content if key is None else {key: content, "epoch": 3, "alpha": 0.5, "beta": 0.5}, "c.pt")
    read, stored = read_checkpoint(Path("c.pt"))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert stored == ({} if key is None else {"epoch": 3.0, "alpha": 0.5, "beta": 0.5})


def test_numpy_numbers_beside_the_weights_are_read() -> None:
    """train_others.py stores alpha and beta out of numpy.arange."""
    state = clip_student(TINY, 4)[1]
    torch.save({"model_state_dict": state, "alpha": np.arange(0, 1.05, 0.05)[7], "beta": np.array([0.5])[0]}, "c.pt")
    assert read_checkpoint(Path("c.pt"))[1] == {"alpha": pytest.approx(0.35), "beta": 0.5}


@pytest.mark.parametrize(
    ("arch", "rule", "fold_heads"),
    [
        pytest.param("dhoxtiny", "auto", False, marks=pytest.mark.slow),
        pytest.param("dhoxtinyresnet", "exact", True, marks=pytest.mark.slow),
        ("dhoxtiny", "exact", True),
        pytest.param("dhoxtinyresnet", "auto", False, marks=pytest.mark.slow),
    ],
)
def test_a_clip_student_answers_as_the_formula_from_import_to_onnx(
    line: Path, arch: str, rule: str, fold_heads: bool
) -> None:
    config: dict[str, Any] = TINY if arch == "dhoxtiny" else TINY_RESNET
    visual, state = clip_student(config, len(CLASSES))
    torch.save({"model_state_dict": with_prefix(state, "module."), "alpha": 0.5, "beta": 0.5}, "c.pt")
    result = import_dho(Path("c.pt"), Path("r"), arch=arch, classes="classes.txt", data=line / "data")
    val = read_npz(Path("r/val.npz"))
    assert val["kd_logits"].shape == (80, 4)
    assert (result.selection.alpha, result.selection.beta) == (0.5, 0.5)
    assert not result.selection.searched
    assert result.summary.student.kd_head == "cosine-code"
    assert not Path("r/test.npz").exists()
    retuned = retune(Path("r"), Chosen(alpha=0.5, beta=0.5))  # there is no test split, which is no error
    assert (retuned.summary.test, retuned.selection.source) == (None, "given")

    manifest = export(Path("r"), Path("r/export"), fold_heads=fold_heads, fold_rule=rule, fp16=True).manifest
    assert manifest.fold.rule == ("exact" if fold_heads else "heads")
    assert "chose" not in read_json(Path("r/export/ledger.json"))["images"]  # alpha and beta were given
    assert [row.stage for row in manifest.comparison][:3] == ["ce_head", "kd_head", "dho"]
    golden = read_npz(Path("r/export/golden.npz"))
    side = config["vision_cfg"]["image_size"]
    assert golden["input"].shape[1:] == (side, side, 3)
    mean, std = open_clip.constants.OPENAI_DATASET_MEAN, open_clip.constants.OPENAI_DATASET_STD
    pixels = torch.from_numpy(golden["input"]).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = authors_answer(visual(pixels), state, True, 0.5, 0.5)
    assert abs(golden["probs"] - expected).max() < 1e-4
    model = load("r/export", "cpu", "fp32")
    assert model.classes == list(CLASSES)
    assert abs(model(list(golden["input"])) - expected).max() < 1e-4
    assert str(read_npz(Path("r/export/heads.npz"))["kd_head"]) == "cosine-code"


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow), "mobilenetv2"])
def test_convolutional_students_answer_as_their_formula(arch: str) -> None:
    """nn.Sequential over torchvision's children, so that tensors have numbers for names."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, arch.replace("netv2", "net_v2"))()
    backbone = nn.Sequential(*list(network.children())[:-1])
    images = torch.randn(4, 3, 64, 64)
    backbone.train()(images)  # BatchNorm statistics
    backbone.eval()
    with torch.no_grad():
        z = F.adaptive_avg_pool2d(backbone(images), 1).flatten(1)
    state = with_authors_heads(backbone, 4, z.shape[1])
    shuffled = {name: state[name] for name in sorted(state)}  # names count, not their order
    torch.save({"model_state_dict": shuffled, "epoch": 3, "alpha": 0.35, "beta": 0.75}, "c.pt")
    result = import_dho(Path("c.pt"), Path("r"), arch=arch, classes="classes.txt", alpha=0.3, beta=0.7)
    assert result.summary.student.kd_head == "linear"
    assert (result.selection.alpha, result.selection.beta) == (0.3, 0.7)
    student = load_student(Path("r"), read_run(Path("r")).student)
    with torch.no_grad():
        ce, kd = student(images)
        assert torch.allclose(student.backbone(images), z, atol=1e-4 * float(z.abs().max()))
    ours = (0.3 * ce.softmax(-1) + 0.7 * (kd / 0.7).softmax(-1)).numpy()
    assert abs(ours - authors_answer(z, state, False, 0.3, 0.7)).max() < 1e-4
    note = result.summary.notes[0]
    assert "stores alpha 0.35, beta 0.75; used are alpha 0.3 (weight of the CE head) and beta 0.7" in note
    assert "until 21 May 2025" in note


def test_without_data_the_run_exports_and_says_so() -> None:
    torch.save(with_prefix(clip_student(TINY, 4)[1], ""), "c.pt")
    result = import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    assert read_npz(Path("r/val.npz"))["ce_logits"].shape == (0, 4)
    assert len(list(Path("r/synthetic/unlabelled").iterdir())) == COUNT
    assert "Give dhox export --data DATA" in result.summary.notes[-1]
    assert "stores no alpha and no beta" in result.summary.notes[0]
    exported = export(Path("r"), Path("r/export"))
    assert exported.manifest.fold.rule == "exact"
    assert exported.ledger.images == "synthetic images, for want of real ones"
    assert exported.ledger.note == "not run: the images have no labels"
    assert (exported.ledger.rows, exported.ledger.labels) == ([], None)
    assert onnx.load("r/export/model.onnx").graph.output[0].name == "probs"
    with pytest.raises(DhoxError, match="--max-accuracy-drop"):
        export(Path("r"), Path("e"), max_accuracy_drop=1.0)


def test_real_images_given_at_export_replace_the_synthetic_ones(line: Path) -> None:
    torch.save(clip_student(TINY, 4)[1], "c.pt")
    import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    result = export(Path("r"), Path("e"), data=line / "data")
    assert result.ledger.images == "images, without using their labels"
    assert result.manifest.data == str(line / "data")
    only_test = Path("only-test/test")
    only_test.mkdir(parents=True)
    (only_test / "bag").symlink_to(line / "data/test/bag")
    with pytest.raises(DhoxError, match="only-test .*--data DATA"):
        export(Path("r"), Path("f"), data=Path("only-test"))


@pytest.mark.parametrize(("stated", "far"), [(99.0, True), (0.99, True), (None, False)])
def test_the_accuracy_that_a_file_states_is_held_against_the_measured_one(
    line: Path, stated: float | None, far: bool
) -> None:
    """The weights are random, so about a quarter of the answers are right."""
    stored = {"model_state_dict": clip_student(TINY, 4)[1], "epoch": 3}
    torch.save(stored | ({} if stated is None else {"acc": stated}), "c.pt")
    classes = Path("four.txt")
    classes.write_text("\n".join(path.name for path in sorted((line / "data/val").iterdir())))
    result = import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes=str(classes), data=line / "data")
    note = result.summary.notes[-1]
    assert "of 80 validation images" in note
    assert ("99.0 % on its authors' randomly cropped images" in note, "--classes" in note) == (far, far)


@pytest.mark.parametrize(
    ("arch", "kernel"), [("resnet18", "bilinear"), ("resnet50", "bilinear"), ("dhoxtiny", "bicubic")]
)
def test_images_are_looked_at_as_the_script_of_the_checkpoint_does(arch: str, kernel: str) -> None:
    """The centre crop after torchvision's Resize, whose default is bilinear; CLIP students were cropped bicubic."""
    if arch == "dhoxtiny":
        state, look = clip_student(TINY, 4)[1], v2.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    else:
        network = getattr(torchvision.models, arch)()
        state = with_authors_heads(nn.Sequential(*list(network.children())[:-1]), 4, network.fc.in_features)
        look = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.save(state, "c.pt")
    preprocessing = import_dho(Path("c.pt"), Path("r"), arch=arch, classes="classes.txt").summary.preprocessing
    side = preprocessing.crop
    assert side == (32 if arch == "dhoxtiny" else 224)
    pixels = np.random.default_rng(0).integers(0, 256, (330, 470, 3), np.uint8)
    seen = v2.CenterCrop(side)(v2.Resize(side, v2.InterpolationMode(kernel))(Image.fromarray(pixels)))
    ours = model_input(Image.fromarray(pixels), preprocessing)
    assert np.array_equal(ours, np.asarray(seen))
    theirs = look(torch.from_numpy(np.asarray(seen).copy()).permute(2, 0, 1) / 255).numpy()
    assert abs(normalise(ours[None], preprocessing)[0] - theirs).max() < 1e-5


@pytest.mark.parametrize("side", [32, 48])
def test_the_image_size_is_that_of_the_position_embeddings(side: int) -> None:
    config = TINY | {"vision_cfg": TINY["vision_cfg"] | {"image_size": side}}  # type: ignore[operator]
    torch.save(clip_student(config, 4)[1], "c.pt")
    summary = import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt").summary
    assert summary.student.image_size == side
    assert summary.preprocessing.crop == side


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_of_values_that_are_no_numbers_is_refused(value: float) -> None:
    state = clip_student(TINY, 4)[1]
    state["kd_head.weight"][2, 3] = value
    torch.save({"model_state_dict": state}, "c.pt")
    with pytest.raises(DhoxError, match=r"c\.pt.*kd_head\.weight"):
        import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    assert not Path("r").exists()


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model_state_dict": clip_student(TINY, 4)[1], "alpha": Evil()}, "evil.pt")
    with pytest.raises(DhoxError, match=r"evil\.pt") as caught:
        import_dho(Path("evil.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    assert "getattr" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    torch.jit.script(nn.Linear(2, 2)).save("scripted.pt")
    with pytest.raises(DhoxError, match=r"scripted\.pt"):
        import_dho(Path("scripted.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    assert not (tmp_path / "ran").exists()
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("change", "arch", "message"),
    [
        ({}, "ViT-B-16", "ViT-B-16.*--arch"),
        ({}, "resnet18", "resnet18.*--arch"),
        ({}, "dhoxtinyresnet", r"backbone\.attnpool\.positional_embedding"),
        ({}, "ViT-B16", "--arch ViT-B16 .*ViT-B-16"),
        ({"kd_head.bias": None}, "dhoxtiny", r"kd_head\.bias"),
        ({"backbone.proj": None}, "dhoxtiny", r"1 missing: proj\b"),
        ({"backbone.more": torch.zeros(1)}, "dhoxtiny", r"1 not .*: more\b"),
        ({"kd_head.weight": torch.zeros(4, 23)}, "dhoxtiny", r"kd_head\.weight \[4, 23\] instead of \[4, 24\]"),
        ({"ce_head.bias": torch.zeros(5)}, "dhoxtiny", "5 classes, --classes .*4"),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(change: dict[str, Any], arch: str, message: str) -> None:
    state = clip_student(TINY, 4)[1] | change
    torch.save({name: part for name, part in state.items() if part is not None}, "c.pt")
    with pytest.raises(DhoxError, match=message):
        import_dho(Path("c.pt"), Path("r"), arch=arch, classes="classes.txt")
    assert not Path("r").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", [1, 2], {"a": 1}, torch.zeros(3)])
def test_files_that_are_no_checkpoint(content: Any) -> None:
    if isinstance(content, bytes):
        Path("c.pt").write_bytes(content)
    else:
        torch.save(content, "c.pt")
    with pytest.raises(DhoxError, match=r"c\.pt"):
        import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")
    with pytest.raises(DhoxError, match=r"missing\.pt"):
        import_dho(Path("missing.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt")


def test_data_that_does_not_fit_is_named(line: Path) -> None:
    torch.save(clip_student(TINY, 4)[1], "c.pt")
    Path("other.txt").write_text("bag\ndress\nsandal\nshirt\n")
    with pytest.raises(DhoxError, match="trousers"):
        import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="other.txt", data=line / "data")
    Path("d/train").mkdir(parents=True)
    Path("d/train/bag").symlink_to(line / "data/train/bag")
    with pytest.raises(DhoxError, match=r"d .*val/CLASS"):
        import_dho(Path("c.pt"), Path("r"), arch="dhoxtiny", classes="classes.txt", data=Path("d"))


def test_imagenet_has_a_thousand_different_names() -> None:
    names, synsets = known_classes("imagenet"), known_classes("imagenet-wnid")
    assert len({name for name, _ in names}) == len({name for name, _ in synsets}) == 1000
    assert (names[0], synsets[0]) == (("tench", "tench"), ("n01440764", "tench"))
    assert [prompt for _, prompt in names] == [prompt for _, prompt in synsets]
    assert ("missile (n03773504)", "missile") in names
    with pytest.raises(DhoxError, match="imagenet21k"):
        known_classes("imagenet21k")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    from dhox.cli.main import main

    torch.save(clip_student(TINY, 4)[1], "vit.pt")
    with pytest.raises(SystemExit) as end:
        main(["import-dho", "vit.pt", "--arch", "dhoxtiny", "--classes", "classes.txt"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "used are alpha 0.5 (weight of the CE head) and beta 0.5" in text
    assert "alpha, beta: fixed at (0.5, 0.5) when the checkpoint was imported" in text
    assert "Next: dhox export runs/vit" in text
    assert read_json(Path("runs/vit/run.json"))["imported"]["file"] == str(Path("vit.pt").absolute())


@pytest.mark.slow
def test_the_published_shapes(line: Path) -> None:
    """vit_b_1.pt as huggingface.co/erjui/dho has it: 1,000 classes, 348.9 MB of float32."""
    visual, state = clip_student(open_clip.get_model_config("ViT-B-16-quickgelu"), 1000)
    torch.save({"model_state_dict": with_prefix(state, "module."), "epoch": 31, "alpha": 0.5, "beta": 0.5}, "c.pt")
    assert abs(Path("c.pt").stat().st_size - 348.9e6) < 0.1e6
    import_dho(Path("c.pt"), Path("r"), arch="ViT-B-16", classes="imagenet")
    student = load_student(Path("r"), read_run(Path("r")).student)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        ce, kd = student(images)
        expected = authors_answer(visual(images), state, True, 0.5, 0.5)
    assert abs((0.5 * ce.softmax(-1) + 0.5 * (kd / 0.5).softmax(-1)).numpy() - expected).max() < 1e-5

"""dhox add-class on a real run: what stays to the bit, what is known afterwards, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CLASSES, DEMO
from onnx import numpy_helper
from PIL import Image
from quick_distill import quick
from refusals import refuses
from safetensors.numpy import load_file
from typer.testing import CliRunner

import dhox
from dhox.artefacts.logits import Logits
from dhox.artefacts.run_directory import open_run
from dhox.cli.main import app
from dhox.data.dataset import read_dataset
from dhox.distill.growing import add_class as module
from dhox.distill.growing.add_class import AddResult
from dhox.distill.small_options import AddClassOptions
from dhox.errors import GateFailedError, UsageError
from dhox.options.declare import build

NEW = "ankle boot"


def add(run: Path, name: str = NEW, out: Path = Path("grown"), **options: object) -> AddResult:
    return module.add_class(run, name, out, build(AddClassOptions, **{"device": "cpu", "workers": 0} | options))


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of a class that the line does not know; `test/` holds forty others."""
    root = tmp_path_factory.mktemp("new")
    with np.load(DEMO / "fashion_mnist.npz") as archive:
        number = archive["classes"].tolist().index("ankle_boot")
        for split, count, folder in (("train", 10, "boots"), ("test", 40, "test")):
            (root / folder).mkdir()
            for i, pixels in enumerate(archive[f"{split}_images"][archive[f"{split}_labels"] == number][:count]):
                Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root / "boots"


@pytest.fixture(scope="module")
def grown(line: Path, boots: Path, tmp_path_factory: pytest.TempPathFactory) -> AddResult:
    """The line's run with the class added."""
    return add(line / "runs/tiny", out=tmp_path_factory.mktemp("grown") / "run", images=boots)


def same_columns(old: Logits, new: Logits) -> None:
    for head in ("ce_logits", "kd_logits"):
        assert getattr(new, head)[:, :-1].tobytes() == getattr(old, head).tobytes()
    assert new.names.tolist() == old.names.tolist()
    assert new.labels.tolist() == old.labels.tolist()


def test_backbone_old_rows_and_stored_answers_keep_their_bytes(line: Path, grown: AddResult) -> None:
    before, after = open_run(line / "runs/tiny"), open_run(grown.run)
    old, new = (load_file(one.path / "student.safetensors") for one in (before, after))
    assert old.keys() == new.keys()
    for name, part in old.items():
        assert new[name][: len(part)].tobytes() == part.tobytes() if part.ndim else new[name] == part
        assert len(new[name]) == len(part) + ("head" in name) if part.ndim else True
    assert after.run.labels == [*CLASSES, NEW]
    assert after.run.classes[-1].prompt == NEW
    assert (after.selection.alpha, after.selection.beta) == (before.selection.alpha, before.selection.beta)
    same_columns(before.validation, after.validation)
    assert before.test is not None
    assert after.test is not None
    same_columns(before.test, after.test)


def test_what_the_run_says_of_it(line: Path, boots: Path, grown: AddResult) -> None:
    run = open_run(grown.run).run
    (added,) = run.added
    assert (added.name, added.n_images, added.recall.n) == (NEW, 10, 10)
    assert added.run == str(line / "runs/tiny")
    assert added.recall.correct >= 7
    assert added.old is not None
    assert (added.old.images, added.old.before.n) == ("test", 48)
    assert added.old.after.correct == added.old.before.correct + added.old.gained - added.old.lost
    assert run.test is not None
    assert next(row for row in run.test if row.stage == "dho").correct == added.old.after.correct
    assert run.sets.labelled[-10:] == [f"added/{NEW}/{i}.png" for i in range(10)]
    listed = read_dataset(Path(run.data))
    assert sum(item.label == NEW for item in listed["train"]) == 10
    assert Path(run.data).parent == grown.run


def test_the_export_differs_in_the_head_alone_and_knows_the_class(line: Path, boots: Path, grown: AddResult) -> None:
    made = [
        dhox.export(run, Path(f"export-{number}"), fp16=True, fold_rule="linear").export  # type: ignore[operator]
        for number, run in enumerate((line / "runs/tiny", grown.run))
    ]
    for file in ("model.onnx", "model.fp16.onnx"):
        old, new = (
            {part.name: numpy_helper.to_array(part) for part in onnx.load(export / file).graph.initializer}
            for export in made
        )
        assert old.keys() == new.keys()
        other = {name for name in old if old[name].tobytes() != new[name].tobytes()}
        assert other
        assert all(name.startswith("head.") for name in other), other
    model = dhox.load(made[1])
    answers = model(sorted((boots.parent / "test").iterdir())).argmax(1)
    assert (answers == len(CLASSES)).sum() >= 30


def test_a_class_more_on_a_run_that_has_one(grown: AddResult, line: Path) -> None:
    with np.load(DEMO / "fashion_mnist.npz") as archive:
        number = archive["classes"].tolist().index("shirt")
        Path("shirts").mkdir()
        for i, pixels in enumerate(archive["train_images"][archive["train_labels"] == number][:6]):
            Image.fromarray(pixels).save(f"shirts/{i}.png")
    again = add(grown.run, "shirt", images=Path("shirts"))
    assert again.summary.labels == [*CLASSES, NEW, "shirt"]
    assert [one.name for one in again.summary.added] == [NEW, "shirt"]
    same_columns(open_run(grown.run).validation, open_run(again.run).validation)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param("kd", "linear", marks=SLOW), pytest.param("ce", "linear", marks=SLOW), pytest.param("dho", "cosine-paper", marks=SLOW),
        pytest.param("dho", "cosine-code", marks=SLOW),
    ],
)  # fmt: skip
def test_other_heads_grow_too_and_without_validation(line: Path, boots: Path, method: str, kind: str) -> None:
    shutil.copytree(line / "data", "data", ignore=shutil.ignore_patterns("val"))
    shots = {} if method == "kd" else {"shots": 4}
    Path("classes.txt").write_text("\n".join(CLASSES))
    run = quick(Path("data"), method=method, kd_head=kind, classes=Path("classes.txt"), **shots).run
    result = add(run, images=boots)
    opened = open_run(result.run)
    assert opened.run.sets.n_validation == 0
    assert (opened.validation.unlabelled is not None) == (method == "dho")
    if opened.validation.unlabelled is not None:
        assert opened.validation.unlabelled.classes == len(CLASSES) + 1
    assert dhox.export(result.run, Path("e")).manifest.classes[-1].name == NEW  # type: ignore[operator]


def test_a_limit_takes_less_from_the_old_classes(line: Path, boots: Path, grown: AddResult) -> None:
    limited = add(line / "runs/tiny", images=boots, max_accuracy_drop=0)
    assert limited.added.old is not None
    assert grown.added.old is not None
    assert limited.added.old.lost <= grown.added.old.lost
    assert limited.added.recall.correct <= grown.added.recall.correct
    with refuses("48 images", at="distill.growing.add_class.check_drop", kind=GateFailedError):
        module.check_drop(limited.added, 0)
    module.check_drop(limited.added, 60)
    module.check_drop(limited.added, None)


def test_the_console_script(own_line: Path, boots: Path) -> None:
    script = Path(sys.executable).with_name("dhox")
    words = [script, "add-class", own_line / "runs/tiny", NEW, "--images", boots, "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = own_line / f"runs/tiny-{NEW}"
    assert f"Next: dhox export '{out}'" in done.stdout
    assert (out / "report.html").is_file()
    again = CliRunner().invoke(app, [*map(str, words[1:]), "--overwrite", "--max-accuracy-drop", "0"])
    assert isinstance(again.exception, GateFailedError), again.output
    assert (out / "run.json").is_file()


def test_names_that_cannot_be_a_class(line: Path, boots: Path) -> None:
    at = "labelling.classes.checked_name"
    for name, fact in (("bag", "bag"), ("Bag", "bag"), (" ", "name"), ("a/b", "a/b"), ("a\u200bb", "character")):
        with refuses(fact, at=at):
            add(line / "runs/tiny", name, images=boots)
    assert not Path("grown").exists()


def test_images_that_teach_nothing(line: Path, boots: Path) -> None:
    run, at = line / "runs/tiny", "distill.growing.material.read_new_images"
    with refuses("nowhere", at=at, kind=UsageError):
        add(run, images=Path("nowhere"))
    with refuses("0.png", at=at, kind=UsageError):
        add(run, images=boots / "0.png")
    Path("few").mkdir()
    with refuses("0 different images", at=at):
        add(run, images=Path("few"))
    for name in ("a.png", "b.png"):
        shutil.copy(boots / "0.png", Path("few") / name)
    with refuses("1 different image", at=at):
        add(run, images=Path("few"))
    (Path("few") / "torn.png").write_bytes(b"\x89PNG torn")
    with refuses("torn.png", at="distill.images.scan.scan", fix="--skip-bad-images"):
        add(run, images=Path("few"))
    shutil.copy(boots / "1.png", Path("few") / "c.png")
    result = add(run, images=Path("few"), skip_bad_images=True)
    assert result.added.n_images == 2
    assert sum("unreadable" in note or "copies of others" in note for note in result.summary.notes) == 2


def test_images_that_the_run_knows(own_line: Path, boots: Path) -> None:
    shutil.copytree(boots, "mixed")
    shutil.copy(next((own_line / "data/test/bag").iterdir()), "mixed/known.png")
    with refuses("known.png", "bag", at="distill.growing.material"):
        add(own_line / "runs/tiny", images=Path("mixed"), data=own_line / "data")
    Path("mixed/known.png").unlink()
    used = set(open_run(own_line / "runs/tiny").run.sets.labelled)
    free = next(
        path for path in sorted((own_line / "data/train/bag").iterdir()) if f"train/bag/{path.name}" not in used
    )
    shutil.copy(free, "mixed/free.png")
    result = add(own_line / "runs/tiny", images=Path("mixed"), data=own_line / "data")
    assert any("1 images of the class lay in DATA" in note for note in result.summary.notes)


def test_data_that_is_gone_or_another(own_line: Path, boots: Path) -> None:
    run = own_line / "runs/tiny"
    moved = own_line / "moved"
    shutil.move(own_line / "data", moved)
    with refuses("nowhere", at="distill.growing.material.gather", fix="--data"):
        add(run, images=boots, data=Path("nowhere"))
    assert add(run, images=boots, data=moved).added.n_images == 10
    image = sorted((moved / "val/bag").iterdir())[0]
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(image)
    with refuses(f"val/bag/{image.name}", at="distill.growing.material"):
        add(run, images=boots, out=Path("other"), data=moved)
    image.unlink()
    with refuses(f"val/bag/{image.name}", at="distill.growing.material"):
        add(run, images=boots, out=Path("other"), data=moved)


def test_no_run_is_overwritten(own_line: Path, boots: Path) -> None:
    run = own_line / "runs/tiny"
    before = (run / "run.json").read_bytes()
    with refuses(run.name, at="artefacts.files.check_output", fix="--overwrite"):
        add(run, images=boots, out=run)
    with refuses("run itself", at="distill.growing.add_class.add_class"):
        add(run, images=boots, out=run, overwrite=True)
    assert (run / "run.json").read_bytes() == before

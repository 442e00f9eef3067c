"""The whole loop of docs/suggest.md: choose, label, distil, deploy, look at the field, choose again, gate the new one."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from quick_distill import DEMO_TEACHER
from typer.testing import CliRunner

from dhox.artefacts.run import read_run
from dhox.artefacts.suggestions import read_suggestions
from dhox.cli.main import app

CLASSES = ("bag", "dress", "sandal", "trousers")
TEACHER = ("--teacher", DEMO_TEACHER, "--device", "cpu")
QUICK = (
    "--student", "test_resnet", "--student-weights", "none", "--image-size", "28", "--batch-labelled", "8",
    "--batch-unlabelled", "32", "--views", "2", "--learning-rate", "3e-3", "--log", "csv", "--adapter", "probe",
)  # fmt: skip


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def answer(labels: Path, suggestions: Path) -> None:
    """What a person would answer on the page of dhox label (tests/labelling has the page itself)."""
    new = not labels.exists()
    with labels.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["path", "label", "name"])
        for one in read_suggestions(suggestions):
            writer.writerow([one.path, Path(one.name).name.split("-")[0], one.name])


@pytest.fixture
def photos(line: Path, tmp_path: Path) -> Path:
    """Unlabelled images, and those of val and test that an owner keeps apart."""
    data = tmp_path / "photos"
    for split in ("val", "test"):
        shutil.copytree(line / "data" / split, data / split)
    (data / "unlabelled").mkdir()
    for image in sorted((line / "data/train").glob("*/*.png")):
        if int(image.stem) < 16:
            shutil.copy(image, data / "unlabelled" / f"{image.parent.name}-{image.name}")
    Path("classes.txt").write_text("\n".join(CLASSES) + "\n")
    return data


def test_from_a_pile_of_images_to_a_student_that_learnt_from_the_field(photos: Path, line: Path) -> None:
    labels, classes = Path("labels.csv"), ("--classes", "classes.txt")
    run("suggest", photos, *classes, "--n", 16, *TEACHER)
    answer(labels, Path("suggestions.csv"))
    said = run("distill", photos, "--labels", labels, *classes, "--epochs", 4, "--out", "runs/first", *TEACHER, *QUICK)
    assert "dhox export" in said
    run("export", "runs/first")
    bench = ("--device", "cpu", "--precision", "fp32", "--duration", 0.1, "--energy", 0)
    run("bench", "runs/first/export", "--out", "old", *bench)

    field = photos / "unlabelled/field"
    field.mkdir()
    for image in sorted((line / "data/train").glob("*/*.png")):
        if int(image.stem) >= 16:
            shutil.copy(image, field / f"{image.parent.name}-{image.name}")
    run("drift", "runs/first/export", field, "--out", "drift")
    assert json.loads(Path("drift/drift.json").read_text())["schema"] == "dhox.drift/1"

    run("suggest", photos, "--labels", labels, "--from-export", "runs/first/export", "--images", field, "--n", 8,
        *classes, *TEACHER)  # fmt: skip
    chosen = read_suggestions(Path("suggestions.csv"))
    assert {Path(one.path).parent.name for one in chosen} == {"field"}
    answer(labels, Path("suggestions.csv"))
    run("distill", photos, "--labels", labels, "--init-from", "runs/first", *classes, "--epochs", 2, "--out",
        "runs/second", *TEACHER, *QUICK)  # fmt: skip
    first, second = (read_run(Path(f"runs/{name}")) for name in ("first", "second"))
    assert (first.sets.n_labelled, second.sets.n_labelled) == (16, 24)
    assert second.sets.n_unlabelled == 96 - 24
    run("export", "runs/second")
    run("bench", "runs/second/export", "--out", "new", *bench)
    gate = CliRunner().invoke(app, ["compare", "old", "new", "--max-accuracy-drop", "100", "--json"])
    assert gate.exit_code == 0, gate.output

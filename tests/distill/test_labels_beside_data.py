"""`distill --labels FILE`: an unlabelled pile and the labels of some of its images."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from quick_distill import quick
from refusals import refuses

import dhox
from dhox.artefacts.run import read_run

CLASSES = ("bag", "dress", "sandal", "trousers")


@pytest.fixture
def pile(line: Path, tmp_path: Path) -> Path:
    """Every training image of the line, unlabelled, with its class in its file name alone."""
    folder = tmp_path / "pile"
    folder.mkdir()
    for image in sorted((line / "data" / "train").glob("*/*.png")):
        shutil.copy(image, folder / f"{image.parent.name}-{image.name}")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def label(pile: Path, **counts: int) -> Path:
    """labels.csv beside the pile with the first images of some classes."""
    file = pile.parent / "labels.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "label"])
        for name, n in counts.items():
            writer.writerows([f"pile/{image.name}", name] for image in sorted(pile.glob(f"{name}-*"))[:n])
    return file


def test_the_labelled_images_of_the_file_train_and_the_rest_is_unlabelled(pile: Path) -> None:
    labels = label(pile, bag=6, dress=6, sandal=6, trousers=6)
    run = read_run(quick(pile, labels=labels, test_fraction=0.3).run)
    listed = [*csv.DictReader((Path("runs/x") / "splits.csv").open())]
    by_split = {split: [row for row in listed if row["split"] == split] for split in ("train", "unlabelled", "test")}
    assert len(by_split["test"]) == run.sets.n_test == 8  # 2 of each 6
    assert len(by_split["train"]) == 16
    assert {row["name"].split("-")[0] == row["label"] for row in by_split["train"] + by_split["test"]} == {True}
    assert run.sets.n_labelled == 16
    assert run.sets.n_unlabelled == len(by_split["unlabelled"]) == 96 - 24
    assert run.labels == [*CLASSES]
    assert any("with 8 test images, 6 right are 75 % (41-93)" in note for note in run.notes)  # Wilson's interval
    assert any("no random sample" in note for note in run.notes)


def test_classes_without_a_label_are_left_to_the_teacher_and_named(pile: Path) -> None:
    labels, classes = label(pile, bag=3, sandal=2), pile.parent / "classes.txt"
    run = quick(pile, labels=labels, classes=classes).run
    summary = read_run(run)
    assert summary.labels == [*CLASSES]
    assert any("no label yet for 2 of 4 classes" in note and "dress, trousers" in note for note in summary.notes)
    assert summary.sets.n_labelled == 5
    dhox.export(run)
    assert (run / "export/manifest.json").is_file()
    with refuses("dress", "trousers", at="distill.images.samplers._images_of_classes"):
        quick(pile, "runs/ce", labels=labels, classes=classes, method="ce")


def test_kd_takes_the_classes_of_the_labels(pile: Path) -> None:
    labels = label(pile, bag=2, dress=1, sandal=1, trousers=1)
    run = read_run(quick(pile, labels=labels, method="kd").run)
    assert (run.labels, run.sets.n_labelled, run.sets.n_unlabelled) == ([*CLASSES], 0, 96)


def test_labels_of_other_images_stop_before_anything_is_written(pile: Path) -> None:
    labels = pile.parent / "labels.csv"
    labels.write_text("path,label\nelse/1.png,bag\n")
    with refuses("labels no image of DATA", at="data.labels_file.with_labels"):
        quick(pile, labels=labels)
    assert not Path("runs").exists()

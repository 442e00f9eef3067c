"""Small whole run directories without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Preprocessing, StudentEntry, StudentSpec, TeacherEntry, class_entries
from dhox.artefacts.files import RUN_FILE
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, Logits
from dhox.artefacts.record import write_record
from dhox.artefacts.run import Run, SetsSummary, StageAccuracy, Training, read_run
from dhox.artefacts.run_directory import write_run_file
from dhox.artefacts.selection import SELECTION_FILE, Selection

TRAINING = Training(
    epochs=1, epoch_steps=2, batch_labelled=2, batch_unlabelled=4, learning_rate=1e-3, weight_decay=0.01, warm_up=0.1,
    schedule="cosine", views=1, packed_size=0, seed=0, split_seed=0, view_seed=0, precision="32-true", device="cpu",
    processes=1,
)  # fmt: skip


def example_logits(n: int, classes: int, split: str = "val", **others: Any) -> Logits:
    """Random logits of n images, their labels and names."""
    generator = np.random.default_rng(n)
    ce_logits, kd_logits = generator.standard_normal((2, n, classes)).astype(np.float32)
    labels = generator.integers(classes, size=n)
    names = np.array([f"{split}/{i:04}.png" for i in range(n)], np.str_)
    return Logits(ce_logits=ce_logits, kd_logits=kd_logits, labels=labels, names=names, **others)


def example_run(spec: StudentSpec, labels: list[str], n_validation: int = 0, n_test: int = 0, **others: Any) -> Run:
    """run.json of a student; `others`: fields that replace these."""
    sets = SetsSummary(
        n_labelled=1, n_unlabelled=2, n_validation=n_validation, n_test=n_test,
        selection="val" if n_validation else "none", labelled=["train/0.png"],
        validation=[f"val/{i:04}.png" for i in range(n_validation)],
    )  # fmt: skip
    right = np.zeros(n_test, bool)
    fields: dict[str, Any] = {
        "finished_at": "2026-01-01T00:00:00.000000+00:00",
        "method": "dho" if spec.two_heads else "ce",
        "data": "/data",
        "classes": class_entries([(label, label) for label in labels]),
        "sets": sets,
        "teacher": TeacherEntry(name="ViT", scale=100.0, views=1, online=False),
        "student": StudentEntry(**msgspec.structs.asdict(spec), weights="none"),
        "preprocessing": Preprocessing(spec.image_size, spec.image_size, "bilinear", (0.5,) * 3, (0.5,) * 3),
        "training": TRAINING,
        "test": [StageAccuracy.of(right, stage="ce_head"), StageAccuracy.of(right, stage="dho")] if n_test else None,
        "skipped": [],
        "notes": [],
        "environment": {"dhox": "0"},
    }
    return Run(**(fields | others))


def example_selection(n_validation: int, **others: Any) -> Selection:
    """selection.json where nothing was searched."""
    fields: dict[str, Any] = {
        "alpha": 0.4, "beta": 0.5, "searched": False, "metric": "accuracy", "source": "val",
        "n_validation": n_validation, "n_selection_labels": 0, "fewest_images": 50, "grid": None,
    }  # fmt: skip
    return Selection(**(fields | others))


def rehash(path: Path) -> None:
    """Let run.json describe the files that lie beside it now."""
    write_run_file(path, read_run(path))


def write_run(path: Path, classes: int = 3, n_validation: int = 60, n_test: int = 20) -> Path:
    """A run directory of two heads without weights."""
    path.mkdir(parents=True, exist_ok=True)
    labels = [f"class_{i}" for i in range(classes)]
    run = example_run(StudentSpec("test_resnet", 28, classes, True), labels, n_validation, n_test)
    write_arrays(path / VAL_FILE, example_logits(n_validation, classes))
    if n_test:
        write_arrays(path / TEST_FILE, example_logits(n_test, classes, "test"))
    write_arrays(path / IMAGES_FILE, ImageHashes())
    write_record(path / SELECTION_FILE, example_selection(n_validation))
    write_record(path / RUN_FILE, run)
    return path

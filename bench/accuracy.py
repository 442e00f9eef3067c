"""Accuracy of the very file on the test split, image by image."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from dhox.artefacts.ledger import StageRow
from dhox.bench.bench_models import Subject
from dhox.data.dataset import Item, class_numbers, data_exists, read_dataset, shorten
from dhox.errors import DhoxError
from dhox.evidence.ledger import stage_row
from dhox.evidence.statistics import MOST_CONFUSION_CLASSES, confusion_matrix, negative_log_likelihood


def evaluation_items(data: Path | None, subjects: list[Subject]) -> tuple[list[Item], Path | None, str | None]:
    """The test images, where they were found, and why there are none.

    `data`: as the user gave it; else where the first export's run found its images. Left out are images that training
    skipped as unreadable. Raises DhoxError for a DATA that is not there or has no test images, and for labels that a
    model does not know.
    """
    manifests = [subject.manifest for subject in subjects if subject.manifest]
    where = data or (Path(manifests[0].data) if manifests else None)
    if data is not None and not data_exists(data):
        raise DhoxError(f"--data {data} does not exist.", "Give the image folder or manifest with the test split.")
    if where is None or not data_exists(where):
        return [], where, f"not run: no test split{f' at {where}' if where else ''}. Give --data."
    skipped = {name for manifest in manifests for name in manifest.skipped}
    splits = read_dataset(where, "test", labels=subjects[0].classes)
    items = [item for item in splits["test"] if item.name not in skipped]
    if not items and data is not None:
        raise DhoxError(f"{data} has no test images.", f"Put them into {data}/test/CLASS/, or name another --data.")
    if not items:
        return [], where, f"not run: no test split at {where}. Give --data."
    for subject in subjects:
        outside = sorted({str(item.label) for item in items} - set(subject.classes))
        if outside:
            raise DhoxError(
                f"The test split of {where} has labels outside the classes of {subject.name}: {shorten(outside)}.",
                "Check --data, or the model's class list.",
            )
    return items, where, None


def accuracy_row(
    probs: np.ndarray, items: list[Item], classes: list[str], reference: np.ndarray | None
) -> dict[str, Any]:
    """How good answers [N, C] are: top-1 with Wilson's 95 % interval, top-5, per class, calibration, confusion.

    `reference` [N, C]: the answers of another model on the same images, to be compared by McNemar's exact test.
    `confusion` is None where there are too many classes; a value that no finite probability gives is None.
    """
    labels = class_numbers(items, classes)
    row = to_builtins(stage_row(StageRow, probs, labels, reference, stage="torch"))
    row.pop("stage")
    matrix = confusion_matrix(labels, probs.argmax(-1), len(classes))
    paired = {key: row.pop(key) for key in ("agreement", "gained", "lost", "mcnemar_p", "largest_difference")}
    return {
        **row,
        "nll": negative_log_likelihood(probs, labels) if np.isfinite(probs).all() else None,
        "per_class": per_class(matrix, classes),
        "confusion": matrix.tolist() if len(classes) <= MOST_CONFUSION_CLASSES else None,
        "reference": paired if reference is not None else None,
    }


def per_class(matrix: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """Images, recall and precision of each class, in [0, 1]; None where there is nothing to divide by."""
    right, true, answered = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return [
        {
            "class": name,
            "n": int(true[i]),
            "recall": float(right[i] / true[i]) if true[i] else None,
            "precision": float(right[i] / answered[i]) if answered[i] else None,
        }
        for i, name in enumerate(classes)
    ]


def predictions_csv(
    answers: dict[tuple[str, str], np.ndarray], classes: dict[str, list[str]], items: list[Item]
) -> bytes:
    """One row per subject, runner and image: subject, runner, path, label, predicted, probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "runner", "path", "label", "predicted", "probability"])
    for (subject, runner), probs in answers.items():
        for item, row in zip(items, probs, strict=True):
            best = int(row.argmax())
            writer.writerow([subject, runner, item.name, item.label, classes[subject][best], f"{row[best]:.6f}"])
    return text.getvalue().encode()

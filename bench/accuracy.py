"""Accuracy of the very file on the test split, image by image."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from dhox.dataset import Item, class_numbers, read_dataset, shorten
from dhox.errors import DhoxError
from dhox.stats import MOST_CONFUSION_CLASSES, accuracy_row, confusion_matrix


def test_items(data: Path, classes: list[str], skipped: list[str]) -> list[Item]:
    """The test split of DATA without the images that training skipped as unreadable.

    Raises DhoxError for labels that the model does not know.
    """
    items = [item for item in read_dataset(data, "test", labels=classes)["test"] if item.name not in skipped]
    outside = sorted({str(item.label) for item in items} - set(classes))
    if outside:
        raise DhoxError(
            f"The test split of {data} has labels outside the model's classes: {shorten(outside)}. Check --data."
        )
    return items


def accuracy(probs: np.ndarray, items: list[Item], classes: list[str]) -> dict[str, Any]:
    """Top-1 accuracy with its 95 % interval, and the confusion matrix where it is not too large."""
    labels = class_numbers(items, classes)
    predictions = probs.argmax(-1)
    small = len(classes) <= MOST_CONFUSION_CLASSES
    return {
        **accuracy_row(predictions == labels),
        "confusion": confusion_matrix(labels, predictions, len(classes)).tolist() if small else None,
    }


def predictions_csv(probs_by_precision: dict[str, np.ndarray], items: list[Item], classes: list[str]) -> bytes:
    """One row per artefact and image: precision, path, label, predicted, probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["precision", "path", "label", "predicted", "probability"])
    for precision, probs in probs_by_precision.items():
        for item, row in zip(items, probs, strict=True):
            best = int(row.argmax())
            writer.writerow([precision, item.name, item.label, classes[best], f"{row[best]:.6f}"])
    return text.getvalue().encode()

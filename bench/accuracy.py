"""Accuracy of the very file on the test split, image by image."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from msgspec import to_builtins

from dhox.artefacts.bench_accuracy import AccuracyRow, ClassAccuracy, Paired, TestImages
from dhox.artefacts.ledger import StageRow
from dhox.bench.bench_models import BenchModel
from dhox.data.dataset import Item, class_numbers, data_exists, read_dataset, shorten
from dhox.errors import DhoxError, not_there
from dhox.evidence.ledger import stage_row
from dhox.evidence.same_images import against_run
from dhox.evidence.statistics import MOST_CONFUSION_CLASSES, class_counts, confusion_matrix, negative_log_likelihood
from dhox.models.export_directory import Export


@dataclass(frozen=True)
class Evaluation:
    """The test images, where they were found, and why there are none."""

    items: list[Item]
    data: Path | None
    note: str | None = None
    known: dict[str, str] = field(default_factory=dict)  # name -> SHA-256, of the first export's run

    @cached_property
    def against_run(self) -> TestImages | None:
        """The images against those of the run: every one is read for it, so only where it is reported."""
        return against_run(self.items, self.known)


def evaluation_images(data: Path | None, models: list[BenchModel]) -> Evaluation:
    """The images that accuracy is measured on.

    `data`: as the user gave it; else where the first export's run found its images. Left out are images that training
    skipped as unreadable. Raises DhoxError for a DATA that is not there or has no test images, and for labels that a
    model does not know.
    """
    manifests = [model.manifest for model in models if model.manifest]
    where = data or (Path(manifests[0].data) if manifests else None)
    if data is not None and not data_exists(data):
        raise not_there(data, "Give the image folder or manifest with the test split.", "--data")
    if where is None or not data_exists(where):
        return Evaluation([], where, f"not run: no test split{f' at {where}' if where else ''}. Give --data.")
    skipped = {name for manifest in manifests for name in manifest.skipped}
    splits = read_dataset(where, "test", labels=models[0].classes)
    items = [item for item in splits["test"] if item.name not in skipped]
    if not items and data is not None:
        raise DhoxError(f"{data} has no test images.", f"Put them into {data}/test/CLASS/, or name another --data.")
    if not items:
        return Evaluation([], where, f"not run: no test split at {where}. Give --data.")
    for model in models:
        outside = sorted({str(item.label) for item in items} - set(model.classes))
        if outside:
            raise DhoxError(
                f"The test split of {where} has labels outside the classes of {model.name}: {shorten(outside)}.",
                "Check --data, or the model's class list.",
            )
    export = next((Export(model.export, model.manifest) for model in models if model.export and model.manifest), None)
    return Evaluation(items, where, known=export.images().by_name("test") if export else {})


def accuracy_row(
    model: BenchModel, runner: str, probs: np.ndarray, items: list[Item], reference: np.ndarray | None
) -> AccuracyRow:
    """How good a model's answers [N, C] are: top-1 with Wilson's 95 % interval, top-5, per class, calibration.

    `reference` [N, C]: the answers of another model on the same images, to be compared by McNemar's exact test. There
    is no confusion matrix where the classes are too many; a value that no finite probability gives is None.
    """
    labels = class_numbers(items, model.classes)
    stage = to_builtins(stage_row(StageRow, probs, labels, reference, stage="torch"))
    stage.pop("stage")
    answers, n_classes = probs.argmax(-1), len(model.classes)
    drawn = n_classes <= MOST_CONFUSION_CLASSES
    paired = {name: stage.pop(name) for name in Paired.__struct_fields__}
    row = stage | {
        "model": model.name,
        "runner": runner,
        "precision": model.precision,
        "nll": negative_log_likelihood(probs, labels) if np.isfinite(probs).all() else None,
        "per_class": per_class(labels, answers, model.classes),
        "confusion": confusion_matrix(labels, answers, n_classes).tolist() if drawn else None,
        "reference": paired if reference is not None else None,
    }
    return msgspec.convert(row, AccuracyRow)


def per_class(labels: np.ndarray, answers: np.ndarray, classes: list[str]) -> list[ClassAccuracy]:
    """Images, recall and precision of each class; None where there is nothing to divide by."""
    right, true, answered = class_counts(labels, answers, len(classes))
    return [
        ClassAccuracy(
            name=name,
            n=int(true[i]),
            recall=float(right[i] / true[i]) if true[i] else None,
            precision=float(right[i] / answered[i]) if answered[i] else None,
        )
        for i, name in enumerate(classes)
    ]

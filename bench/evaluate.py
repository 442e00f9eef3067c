"""What an opened model answers: golden outputs, test images, and the images of its export's ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from dhox.artefacts.bench_accuracy import Accuracy, DeviceLedger, DeviceLedgerRow, GoldenRow
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.predictions import Answer
from dhox.bench.accuracy import Evaluation, accuracy_row
from dhox.bench.bench_models import BenchModel
from dhox.data.dataset import Item, class_numbers, data_address
from dhox.evidence.device_ledger import device_row, ledger_items
from dhox.models.camera_files import golden_frames
from dhox.models.export_directory import Export
from dhox.models.golden import run_golden
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session


@dataclass(frozen=True)
class OpenLedger:
    """ledger.json of an export, its images found again in DATA, why there are none, and the rows of this device."""

    content: Ledger
    items: list[Item]
    note: str | None
    rows: list[DeviceLedgerRow] = field(default_factory=list)


@dataclass
class Answers:
    """What the models answered: probs [N, C] of the test images by (model, runner), ledgers by export, golden rows."""

    evaluation: Evaluation
    probs: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ledgers: dict[Path, OpenLedger] = field(default_factory=dict)
    golden: list[GoldenRow] = field(default_factory=list)

    def accuracy_of(self, model: BenchModel, runner: str) -> float | None:
        """Top-1 accuracy on the test images, in [0, 1]; None without images."""
        probs = self.probs.get((model.name, runner))
        if probs is None:
            return None
        return float((probs.argmax(-1) == class_numbers(self.evaluation.items, model.classes)).mean())


def evaluate(model: BenchModel, runner: Session, data: Path | None, into: Answers) -> None:
    """Run one opened model over everything that tells how good it is; a model of another tool has test images only, a
    camera file its golden frames.

    `data`: where the images of ledgers are, by default where each export says.
    """
    if model.camera is not None:
        if model.camera.way == "graph" and model.camera_file is not None:
            result = golden_frames(model.camera_file, runner)
            into.golden.append(GoldenRow(model=model.name, runner=runner.name, **msgspec.structs.asdict(result)))
        return
    if into.evaluation.items:
        title = f"{model.name}, {runner.name}, test images"
        into.probs[model.name, runner.name] = predict(runner, model.tensors, into.evaluation.items, title)
    if model.export is None or model.manifest is None:
        return
    if model.export not in into.ledgers:
        content = export_ledger(model)
        found = ledger_items(
            data or Path(model.manifest.data), model.classes, content, Export(model.export, model.manifest).images()
        )
        into.ledgers[model.export] = OpenLedger(content, *found)
    ledger = into.ledgers[model.export]
    if ledger.items:
        probs = predict(runner, model.tensors, ledger.items, f"{model.name}, {runner.name}, ledger images")
        row = device_row(probs, model.precision, ledger.content, len(model.classes))
        ledger.rows.append(DeviceLedgerRow(model=model.name, runner=runner.name, **msgspec.structs.asdict(row)))
    into.golden.append(_golden_row(model, runner))


def _golden_row(model: BenchModel, runner: Session) -> GoldenRow:
    """Whether an export's file answers here as it did on the exporting machine."""
    assert model.export is not None
    assert model.manifest is not None
    export = Export(model.export, model.manifest)
    result = run_golden(export, export.entry(model.precision), runner, model.tensors)
    return GoldenRow(model=model.name, runner=runner.name, **msgspec.structs.asdict(result))


def export_ledger(model: BenchModel) -> Ledger:
    """ledger.json of the export that a model belongs to."""
    assert model.export is not None
    assert model.manifest is not None
    return Export(model.export, model.manifest).ledger()


def accuracy_content(models: list[BenchModel], answers: Answers) -> Accuracy:
    """`accuracy` of bench.json; every model is compared with the first that answered, if it knows the same classes."""
    by_name = {model.name: model for model in models}
    rows = []
    first: dict[str, np.ndarray] = {}  # class -> its probabilities [N]
    for (name, runner), probs in answers.probs.items():
        model = by_name[name]
        paired = set(first) == set(model.classes)
        reference = np.stack([first[one] for one in model.classes], axis=1) if paired else None
        rows.append(accuracy_row(model, runner, probs, answers.evaluation.items, reference))
        first = first or dict(zip(model.classes, probs.T, strict=True))
    images = answers.evaluation
    data = data_address(images.data) if images.data else None
    return Accuracy(
        split="test", data=data, note=images.note, classes=models[0].classes, rows=rows, images=images.against_run
    )


def ledgers_content(models: list[BenchModel], answers: Answers) -> list[DeviceLedger]:
    """`ledgers` of bench.json: for every export its rows on this device, or why there are none."""
    found = []
    for export in dict.fromkeys(model.export for model in models if model.export is not None):
        place, ledger = str(export.absolute()), answers.ledgers.get(export)
        if ledger is None:
            found.append(DeviceLedger(export=place, note="not run: none of its models was evaluated"))
        else:
            images = ledger.content.images
            found.append(DeviceLedger(export=place, images=images, note=ledger.note, rows=ledger.rows))
    return found


def prediction_rows(models: list[BenchModel], answers: Answers) -> Iterator[tuple[str, str, str, Answer]]:
    """The rows of predictions.csv."""
    classes = {model.name: model.classes for model in models}
    for (name, runner), probs in answers.probs.items():
        for item, row in zip(answers.evaluation.items, probs, strict=True):
            best = int(row.argmax())
            yield name, runner, item.name, Answer(str(item.label), classes[name][best], float(row[best]))

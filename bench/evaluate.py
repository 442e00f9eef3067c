"""What an opened model answers: golden outputs, test images, and the images of its export's ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from dhox.bench.accuracy import accuracy_row
from dhox.bench.bench_models import Subject
from dhox.data.dataset import Item, data_address
from dhox.evidence.device_ledger import device_row, ledger_items
from dhox.models.export_directory import Export
from dhox.models.golden import check_golden
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session


@dataclass(frozen=True)
class Ledger:
    """ledger.json of an export, its images found again in DATA, why there are none, and the rows of this device."""

    content: Any
    items: list[Item]
    note: str | None
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Verdicts:
    """Answers [N, C] to the test images by (subject, runner), ledgers by export, and the rows of the golden check."""

    answers: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    ledgers: dict[Path, Ledger] = field(default_factory=dict)
    golden: list[dict[str, Any]] = field(default_factory=list)


def judge(subject: Subject, opened: Session, items: list[Item], data: Path | None, into: Verdicts) -> None:
    """Run one opened model over everything that it can be judged with; a model of another tool has test images only.

    `items`: test images. `data`: where the images of ledgers are, by default where each export says.
    """
    if items:
        words = f"{subject.name}, {opened.name}, test images"
        into.answers[subject.name, opened.name] = predict(opened, subject.tensors, items, words)
    if subject.export is None or subject.manifest is None:
        return
    if subject.export not in into.ledgers:
        content = export_ledger(subject)
        found = ledger_items(data or Path(subject.manifest.data), subject.classes, content)
        into.ledgers[subject.export] = Ledger(content, *found)
    ledger = into.ledgers[subject.export]
    if ledger.items:
        answers = predict(opened, subject.tensors, ledger.items, f"{subject.name}, {opened.name}, ledger images")
        row = device_row(answers, subject.precision, ledger.content, len(subject.classes))
        ledger.rows.append({"subject": subject.name, "runner": opened.name, **to_builtins(row)})
    result = check_golden(
        Export(subject.export, subject.manifest).golden(),
        lambda pixels: predict(opened, subject.tensors, pixels),
        subject.precision,
        subject.preprocessing,
        Export(subject.export, subject.manifest).entry(subject.precision).golden_agreement,
    )
    into.golden.append({"subject": subject.name, "runner": opened.name, **to_builtins(result)})


def export_ledger(subject: Subject) -> Any:
    """ledger.json of the export that a model belongs to."""
    assert subject.export is not None
    assert subject.manifest is not None
    return Export(subject.export, subject.manifest).ledger()


def accuracy_content(
    subjects: list[Subject], verdicts: Verdicts, items: list[Item], where: Path | None, note: str | None
) -> dict[str, Any]:
    """`accuracy` of bench.json; every model is compared with the first that answered, if it knows the same classes."""
    by_name = {subject.name: subject for subject in subjects}
    rows: list[dict[str, Any]] = []
    first: dict[str, np.ndarray] = {}  # class -> its probabilities [N]
    for (name, runner), probs in verdicts.answers.items():
        subject = by_name[name]
        paired = set(first) == set(subject.classes)
        reference = np.stack([first[one] for one in subject.classes], axis=1) if paired else None
        row = accuracy_row(probs, items, subject.classes, reference)
        rows.append({"subject": name, "runner": runner, "precision": subject.precision, **row})
        first = first or dict(zip(subject.classes, probs.T, strict=True))
    return {
        "split": "test",
        "data": data_address(where) if where else None,
        "note": note,
        "classes": subjects[0].classes,
        "rows": rows,
    }


def ledgers_content(subjects: list[Subject], verdicts: Verdicts) -> list[dict[str, Any]]:
    """`ledgers` of bench.json: for every export its rows on this device, or why there are none."""
    rows: list[dict[str, Any]] = []
    for export in dict.fromkeys(subject.export for subject in subjects if subject.export is not None):
        row: dict[str, Any] = {"export": str(export.absolute()), "images": None, "note": None, "rows": []}
        if ledger := verdicts.ledgers.get(export):
            row |= {"images": ledger.content.images, "note": ledger.note, "rows": ledger.rows}
        else:
            row["note"] = "not run: none of its models was judged"
        rows.append(row)
    return rows

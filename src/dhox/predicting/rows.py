"""Predictions as rows: what `--json`, `--jsonl` and `--csv` hold."""

from __future__ import annotations

import csv
import io

import msgspec
import numpy as np

from dhox.artefacts.record import Record, Share
from dhox.predicting.picture import Prediction


class ClassProbability(Record):
    """A class and its probability."""

    name: str = msgspec.field(name="class")
    probability: Share


class Row(Record):
    """The answer to one image or frame.

    `label`: what the source says of it. `predicted`: the answer; null where it is unknown (less sure than the export's
    reject threshold), or where the image could not be read (`error`). `top`: the most probable classes, first first.
    `model`: the file that answered, and the beginning of its SHA-256.
    """

    path: str
    frame: int | None
    seconds: float | None
    label: str | None
    predicted: str | None
    unknown: bool
    top: list[ClassProbability]
    error: str | None
    model: str

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells it from all others."""
        return self.path, self.frame

    @property
    def right(self) -> bool:
        """Whether the most probable class is the label."""
        return bool(self.top) and self.top[0].name == self.label


def row_of(prediction: Prediction, classes: list[str], threshold: float | None, top: int, model: str) -> Row:
    """A prediction with its `top` most probable classes, ties in class order; `threshold`: below it is unknown."""
    of, probs = prediction.picture, prediction.probs
    best: list[ClassProbability] = []
    if probs is not None:
        order = np.argsort(-probs, kind="stable")[:top]
        best = [ClassProbability(classes[i], round(float(probs[i]), 6)) for i in order]
    unknown = probs is not None and threshold is not None and float(probs.max()) < threshold
    seconds = None if of.seconds is None else round(of.seconds, 6)
    answer = best[0].name if best and not unknown else None
    return Row(of.name, of.frame, seconds, of.label, answer, unknown, best, prediction.error, model)


# The CSV table: the row's own fields; `top` is the most probable class alone, with its probability.
COLUMNS = ["path", "frame", "seconds", "label", "predicted", "top", "probability", "unknown", "error", "model"]


def csv_text(rows: list[Row]) -> str:
    """Rows as lines of the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        top, probability = (row.top[0].name, f"{row.top[0].probability:.6f}") if row.top else ("", "")
        unknown = "true" if row.unknown else "false"
        cells = (row.path, row.frame, row.seconds, row.label, row.predicted, top, probability, unknown, row.error)
        writer.writerow(["" if cell is None else cell for cell in (*cells, row.model)])
    return text.getvalue()


def csv_row(cells: dict[str, str]) -> Row:
    """A line of the table as a row, with one class in `top`. Raises ValueError."""
    best = [ClassProbability(cells["top"], float(cells["probability"]))] if cells["top"] else []
    return Row(
        cells["path"], int(cells["frame"]) if cells["frame"] else None,
        float(cells["seconds"]) if cells["seconds"] else None, cells["label"] or None, cells["predicted"] or None,
        cells["unknown"] == "true", best, cells["error"] or None, cells["model"],
    )  # fmt: skip

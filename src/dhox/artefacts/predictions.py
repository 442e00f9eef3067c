"""predictions.csv: what a bench's models answer to every test image, or an audit's teacher to those that judge."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dhox.artefacts.files import write_bytes
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

PREDICTIONS_FILE = "predictions.csv"
COLUMNS = ["model", "runner", "path", "label", "predicted", "probability"]


class Answer(NamedTuple):
    """The label of an image, the class that was answered, and its probability in [0, 1]."""

    label: str
    predicted: str
    probability: float


Answers = dict[str, Answer]  # by the image's name


def write_predictions(path: Path, rows: Iterable[tuple[str, str, str, Answer]]) -> None:
    """Write (model, runner, image, answer) rows atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model, runner, image, answer in rows:
        writer.writerow([model, runner, image, answer.label, answer.predicted, f"{answer.probability:.6f}"])
    write_bytes(path, text.getvalue().encode())


def read_predictions(path: Path) -> dict[tuple[str, str], Answers]:
    """(model, runner) -> answers; empty where the file is missing. Raises DhoxError for another table."""
    found: dict[tuple[str, str], Answers] = {}
    try:
        with regular(path).open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)[:80]}")
            for model, runner, image, label, predicted, probability in reader:
                answer = Answer(label, predicted, float(probability))
                if not 0 <= answer.probability <= 1:
                    raise ValueError(f"line {reader.line_num}: the probability {probability}")
                found.setdefault((model, runner), {})[image] = answer
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as err:
        raise DhoxError(
            f"{path} is not what dhox wrote ({err}).", "Delete it: accuracies are then compared unpaired."
        ) from err
    return found

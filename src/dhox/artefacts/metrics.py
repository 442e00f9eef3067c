"""metrics.csv and gradients.csv: what a training measured while it ran."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from pathlib import Path
from typing import TypeVar

from dhox.artefacts.files import LARGEST_JSON, write_bytes
from dhox.artefacts.record import AGAIN
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

T = TypeVar("T")
METRICS_FILE, GRADIENTS_FILE = "metrics.csv", "gradients.csv"
LOSSES = ("ce_loss", "kd_loss", "learning_rate")
GRADIENT_COLUMNS = ("step", "stage", "cosine", "dot", "sign_agreement")


@dataclass(frozen=True)
class Metrics:
    """One row per epoch: `epochs` count from 1; `columns`: name -> a value per epoch.

    Columns are LOSSES (mean CE and KD loss of the steps, learning rate of the last step), and with validation images
    val_STAGE (accuracy in [0, 1]) and, for two heads, head_agreement (share of equal answers).
    """

    epochs: list[int]
    columns: dict[str, list[float]]

    @property
    def validation(self) -> list[float] | None:
        """Accuracy of the student as a whole on validation, of two heads at the fixed point; None without images."""
        return validation_of(self.columns)


def validation_of(metrics: Mapping[str, T]) -> T | None:
    """Of an epoch's metrics or of columns of them, the one that is a training's validation curve."""
    return metrics.get("val_dho_fixed", metrics.get("val_accuracy"))


@dataclass(frozen=True)
class GradientRow:
    """How the two losses' gradients agree on a stage of the backbone at a step.

    `cosine` in [-1, 1]; `dot`: their dot product; `sign_agreement`: share of one sign, in [0, 1].
    """

    step: int
    stage: str
    cosine: float
    dot: float
    sign_agreement: float


def read_metrics(path: Path) -> Metrics:
    """metrics.csv. Raises DhoxError, with the line, for an empty or damaged file."""
    rows = read_rows(path, ("epoch", *LOSSES))
    names = [name for name in rows[0] if name != "epoch"]
    columns = {name: [number(path, line, name, row) for line, row in lines(rows)] for name in names}
    epochs = [whole(path, line, "epoch", row) for line, row in lines(rows)]
    if epochs != [*range(1, len(rows) + 1)]:
        raise DhoxError(f"{path}: the epochs are not 1, 2, 3 ... in this order.", AGAIN)
    return Metrics(epochs, columns)


def read_gradients(path: Path) -> list[GradientRow]:
    """gradients.csv, none where there is no such file. Raises DhoxError, with the line, for an empty or damaged one."""
    if not path.exists():
        return []
    rows = read_rows(path, GRADIENT_COLUMNS)
    return [
        GradientRow(
            whole(path, line, "step", row), row["stage"],
            *(number(path, line, name, row) for name in ("cosine", "dot", "sign_agreement")),
        )
        for line, row in lines(rows)
    ]  # fmt: skip


def write_gradients(path: Path, rows: list[GradientRow]) -> None:
    """gradients.csv: a row per probed step and stage."""
    write_rows(path, GRADIENT_COLUMNS, [astuple(row) for row in rows])


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[int | float | str]]) -> None:
    """A CSV file, written atomically; six digits of each number that is not whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, all of one length. Raises DhoxError where there is none, or a column is missing."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise DhoxError(f"{path} is larger than dhox writes it.", "Check the path.")
        table = list(csv.reader(io.StringIO(regular(path).read_text(encoding="utf-8")), strict=True))
    except OSError as err:
        raise DhoxError(f"Could not read {path}: {err.strerror}.", "Check the path.") from err
    except (ValueError, csv.Error) as err:
        raise DhoxError(f"{path} is not valid CSV ({err}).", AGAIN) from err
    names = table[0] if table else []
    missing = [name for name in needed if name not in names]
    if missing or len(set(names)) < len(names):
        raise DhoxError(f"{path} lacks the column {missing[0] if missing else 'names'}.", AGAIN)
    if len(table) < 2:
        raise DhoxError(f"{path} holds no row.", AGAIN)
    for line, cells in enumerate(table[1:], start=2):
        if len(cells) != len(names):
            raise DhoxError(f"{path}, line {line}: {len(cells)} cells, {len(names)} were expected.", AGAIN)
    return [dict(zip(names, cells, strict=True)) for cells in table[1:]]


def lines(rows: list[dict[str, str]]) -> Iterable[tuple[int, dict[str, str]]]:
    """The rows with the numbers of their lines."""
    return enumerate(rows, start=2)


def number(path: Path, line: int, name: str, row: dict[str, str]) -> float:
    """A finite number of a row. Raises DhoxError for anything else."""
    try:
        value = float(row[name])
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise DhoxError(f"{path}, line {line}: {name} is {row[name][:40]!r}, a number was expected.", AGAIN)
    return value


def whole(path: Path, line: int, name: str, row: dict[str, str]) -> int:
    """A whole number of a row, 0 at least. Raises DhoxError for anything else."""
    value = number(path, line, name, row)
    if not row[name].isdecimal():
        raise DhoxError(f"{path}, line {line}: {name} is {row[name][:40]!r}, a whole number was expected.", AGAIN)
    return int(value)

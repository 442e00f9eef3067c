"""suggestions.csv: which unlabelled images to label next, in order, with the best guesses; a manifest of DATA too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.files import write_bytes
from dhox.data.manifest import csv_rows
from dhox.errors import DhoxError

SUGGESTIONS_FILE = "suggestions.csv"
GUESSES = 3
COLUMNS = ["path", "label", "split", "group", "name"]
GUESS_COLUMNS = [f"{what}{number}" for number in range(1, GUESSES + 1) for what in ("guess", "probability")]


@dataclass(frozen=True, slots=True)
class Guess:
    """A class label and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An image to label: its file, its name in DATA, its group, and at most GUESSES guesses, the best one first."""

    path: str
    name: str
    group: str | None
    guesses: tuple[Guess, ...]


def write_suggestions(path: Path, suggestions: Iterable[Suggestion]) -> None:
    """Write the suggestions in their order, atomically; label is empty and split is unlabelled, so that the file is a
    manifest of DATA too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *GUESS_COLUMNS])
    for one in suggestions:
        guesses = [cell for guess in one.guesses for cell in (guess.label, f"{guess.probability:.4f}")]
        guesses += [""] * (2 * GUESSES - len(guesses))
        writer.writerow([one.path, "", "unlabelled", one.group or "", one.name, *guesses])
    write_bytes(path, text.getvalue().encode())


def read_suggestions(path: Path) -> list[Suggestion]:
    """The suggestions in the order of the file. Raises DhoxError for another table."""
    found: dict[str, Suggestion] = {}
    for number, row in csv_rows(path):
        if missing := [column for column in ("path", *GUESS_COLUMNS) if column not in row]:
            raise DhoxError(f"{path} has no column {missing[0]}: it is no file of suggestions.", "Run dhox suggest.")
        one = Suggestion(row["path"], row.get("name") or row["path"], row.get("group") or None, _guesses(path, row))
        if one.name in found:
            raise DhoxError(f"{path}, row {number}: {one.name} stands there twice.", "Run dhox suggest again.")
        found[one.name] = one
    return list(found.values())


def _guesses(path: Path, row: dict[str, str]) -> tuple[Guess, ...]:
    found = []
    for number in range(1, GUESSES + 1):
        label, text = row[f"guess{number}"], row[f"probability{number}"]
        if not label:
            break
        try:
            probability = float(text)
        except ValueError:
            probability = -1.0
        if not 0 <= probability <= 1:
            raise DhoxError(
                f"{path}: {text!r} is no probability of {label} ({row['path']}).", "Run dhox suggest again."
            )
        found.append(Guess(label, probability))
    return tuple(found)

"""Where the answers of one prediction go: files, links, counts, and the rows themselves while they are few."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dhox.predicting.answer_files import AnswerFile
from dhox.predicting.picture import Picture, Prediction
from dhox.predicting.rows import Row, row_of
from dhox.predicting.sort_into import begin_sorting, sort_into
from dhox.predicting.tally import Tally

if TYPE_CHECKING:
    from dhox.models.classifier import ExportedModel

FEW = 20  # rows that are kept to be shown


@dataclass
class Outputs:
    """`top`: classes of a row. `most`: rows that are kept, None for all. `answered`: keys of earlier rows."""

    model: ExportedModel
    files: list[AnswerFile]
    folder: Path | None
    top: int
    most: int | None
    tally: Tally
    rows: list[Row] = field(default_factory=list)
    answered: set[tuple[str, int | None]] = field(default_factory=set)

    @classmethod
    def begin(
        cls, model: ExportedModel, csv: Path | None, jsonl: Path | None, folder: Path | None, *, resume: bool,
        overwrite: bool, top: int = 3, keep_all: bool = False,
    ) -> Outputs:  # fmt: skip
        """Make the files, or read those that are there. Raises DhoxError and UsageError for what cannot be written."""
        files = [AnswerFile(csv, "csv")] if csv else []
        files += [AnswerFile(jsonl, "jsonl")] if jsonl else []
        made = cls(model, files, folder, top, None if keep_all else FEW, Tally(frozenset(model.classes)))
        if folder is not None:
            begin_sorting(folder, resume)
        if not resume:
            for file in files:
                file.begin(overwrite)
            return made
        made.resume()
        return made

    def resume(self) -> None:
        """Read earlier answers. Each file holds all of it afterwards: a kill may part them by a batch."""
        first, *others = self.files
        for row in first.resume(self.model.file_id):
            self.keep([row])
            self.answered.add(row.key)
        for other in others:
            lacking, missing = [], set(self.answered)
            for row in other.resume(self.model.file_id):
                missing.discard(row.key)
                if row.key not in self.answered:
                    lacking.append(row)
            if missing:
                other.append([row for row in first.resume(self.model.file_id) if row.key in missing])
            first.append(lacking)
            self.keep(lacking)
            self.answered.update(row.key for row in lacking)

    def is_answered(self, picture: Picture) -> bool:
        """Whether an earlier process answered a picture."""
        return bool(self.answered) and (picture.name, picture.frame) in self.answered

    def add(self, predictions: list[Prediction]) -> str:
        """Write a batch to every place; answers with what to say of it."""
        model = self.model
        rows = [row_of(one, model.classes, model.reject_threshold, self.top, model.file_id) for one in predictions]
        for file in self.files:
            file.append(rows)
        if self.folder is not None:
            sort_into(self.folder, rows)
        self.keep(rows)
        return last_words(rows[-1], predictions[-1])

    def keep(self, rows: list[Row]) -> None:
        """Count rows, and hold them while they are few."""
        self.tally.add(rows)
        room = len(rows) if self.most is None else max(0, self.most - len(self.rows))
        self.rows += rows[:room]

    def plain(self) -> list[Any]:
        """The rows as plain values."""
        return [msgspec.to_builtins(row) for row in self.rows]


def last_words(row: Row, prediction: Prediction) -> str:
    """What the line of progress says of the last answer."""
    where = "" if row.frame is None else f"frame {row.frame:,}: "
    said = row.error or (f"{row.top[0].name} {100 * row.top[0].probability:.0f} %" if row.predicted else "unknown")
    latency = "" if prediction.latency_ms is None else f", {prediction.latency_ms:.1f} ms after the frame"
    return f"{where}{said}{latency}"

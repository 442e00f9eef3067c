"""The files of predictions: appended batch by batch in whole lines, and continued after an interruption."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dhox.artefacts.files import append_bytes, write_bytes
from dhox.errors import DhoxError, UsageError
from dhox.predicting.rows import COLUMNS, Row, csv_row, csv_text
from dhox.system.regular_file import regular

HEADER = ",".join(COLUMNS) + "\n"


@dataclass(frozen=True)
class AnswerFile:
    """A table (`csv`) or JSON Lines (`jsonl`) of predictions."""

    path: Path
    kind: Literal["csv", "jsonl"]

    def begin(self, overwrite: bool) -> None:
        """Make the file, empty but for a header. Raises UsageError where there is one, DhoxError where it cannot be."""
        if self.path.exists() and not overwrite:
            raise UsageError(f"{self.path} exists.", "Continue it with --resume, or replace it with --overwrite.")
        if not self.path.absolute().parent.is_dir():
            raise DhoxError(f"There is no folder {self.path.absolute().parent}.", "Make it, or write elsewhere.")
        write_bytes(self.path, HEADER.encode() if self.kind == "csv" else b"")

    def append(self, rows: list[Row]) -> None:
        """Write rows behind the others, in one piece. Raises DhoxError where the disk does not take them."""
        if self.kind == "csv":
            append_bytes(self.path, csv_text(rows).encode())
        else:
            append_bytes(self.path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))

    def resume(self, model: str) -> Iterator[Row]:
        """The rows that are there; a last line that a kill cut off is dropped first.

        Raises DhoxError for a file that is none of ours, or whose rows are another model's.
        """
        if not self.path.exists():
            self.begin(overwrite=False)
        self._drop_cut_line()
        for row in self.rows("Write another file, or --overwrite it."):
            if row.model != model:
                raise DhoxError(
                    f"{self.path} holds answers of {row.model}, this is {model}.",
                    "Continue with the same export and --precision, or write another file.",
                )
            yield row

    def rows(self, fix: str) -> Iterator[Row]:
        """The rows that are there, but for a last line that a kill cut off. Raises DhoxError, which ends with `fix`,
        for a file that is none of ours."""
        try:
            with regular(self.path).open(encoding="utf-8", newline="") as file:
                yield from self._rows(line for line in file if line.endswith("\n"))
        except (OSError, ValueError, KeyError, csv.Error, msgspec.MsgspecError) as err:
            raise DhoxError(f"{self.path} is not what dhox predict wrote ({err}).", fix) from err

    def _rows(self, file: Iterable[str]) -> Iterator[Row]:
        if self.kind == "jsonl":
            yield from (msgspec.json.decode(line, type=Row) for line in file)
            return
        reader = csv.DictReader(file, strict=True)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or [])[:80]}")
        yield from map(csv_row, reader)

    def _drop_cut_line(self) -> None:
        """Cut the file behind its last line break."""
        with regular(self.path).open("r+b") as file:
            size = file.seek(0, 2)
            while size:
                start = max(0, size - 65536)
                file.seek(start)
                found = file.read(size - start).rfind(b"\n")
                if found >= 0:
                    file.truncate(start + found + 1)
                    return
                size = start
            file.truncate(0)

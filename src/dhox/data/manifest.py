"""DATA as a manifest: a .csv or .parquet file that lists images."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from dhox.data.items import SPLITS, Item, Splits
from dhox.errors import DhoxError, require
from dhox.system.regular_file import regular

ROWS = 4096  # of a Parquet file that are texts at a time


def read_manifest(manifest: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read a manifest; paths are relative to its folder. Rows of `train` without a label are unlabelled.

    A column `name` gives images other names than their paths: copies of DATA keep the names of the original by it.
    """
    splits: Splits = {split: [] for split in SPLITS}
    seen: dict[str, int] = {}
    for number, row in enumerate(read_rows(manifest), start=2):
        if not {"path", "label"} <= row.keys():
            raise DhoxError(f"{manifest} has the columns {', '.join(row)}.", "Name at least these two: path, label.")
        path = row["path"]
        name = row.get("name") or path
        split = row.get("split") or "train"
        label = row["label"] or None
        where = f"{manifest}, row {number}"
        if split not in SPLITS:
            raise DhoxError(f"{where}: split {split!r} is unknown.", f"Use one of: {', '.join(SPLITS)}.")
        if label is None and split in {"val", "test"}:
            raise DhoxError(f"{where}: an image of {split} needs a label.", "Add it, or use the split unlabelled.")
        if label is None or split == "unlabelled":
            split, label = "unlabelled", None
        if split not in wanted:
            continue
        if not (manifest.parent / path).is_file():
            raise DhoxError(
                f"{where}: {path} does not exist below {manifest.parent}.", "Mend the path or drop the row."
            )
        if name in seen:
            raise DhoxError(f"{manifest}, rows {seen[name]} and {number} are both {name}.", "Drop one of them.")
        seen[name] = number
        label, group = label and sys.intern(label), sys.intern(row.get("group") or "") or None
        splits[split].append(Item(str(manifest.parent / path), name, label, group, number - 2))
    return splits


def read_rows(manifest: Path) -> Iterator[dict[str, str]]:
    """The rows of a manifest as texts, one after the other; a missing value is an empty text."""
    if manifest.suffix.lower() == ".csv":
        try:
            with regular(manifest).open(newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    yield {key: (value or "").strip() for key, value in row.items() if key}
                return
        except UnicodeDecodeError as err:
            raise DhoxError(f"{manifest} is not UTF-8 text ({err}).", "Save it as UTF-8.") from err
        except (OSError, csv.Error) as err:
            raise DhoxError(f"{manifest} cannot be read as CSV ({err}).", "Check the path and the file.") from err
    parquet = require("pyarrow.parquet", "parquet")
    try:
        table = parquet.read_table(manifest)
    except (OSError, ValueError) as err:
        raise DhoxError(f"{manifest} cannot be read as Parquet ({err}).", "Write it again.") from err
    for batch in table.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            yield {key: "" if value is None else str(value) for key, value in row.items()}

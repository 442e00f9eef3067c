"""DATA as a manifest: a .csv, .tsv or .parquet file that lists images."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dhox.artefacts.files import write_bytes
from dhox.data.items import SPLITS, Item, Splits, shorten
from dhox.data.split_names import SPLIT_OF, split_of
from dhox.errors import DhoxError, require
from dhox.system.regular_file import regular

MANIFESTS = frozenset({".csv", ".tsv", ".parquet"})
ROWS = 4096  # of a Parquet file that are texts at a time
SEPARATORS = ",;\t"
# What other tools call the columns, in any case of letters; dhox's own names come first.
COLUMNS = {
    "path": ("path", "filename", "file_name", "file", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset"),
    "group": ("group",),
    "name": ("name",),
}


def read_manifest(manifest: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read a manifest; paths are relative to its folder. Rows of `train` without a label are unlabelled.

    A column `name` gives images other names than their paths: copies of DATA keep the names of the original by it.
    """
    splits: Splits = {split: [] for split in SPLITS}
    seen: dict[str, int] = {}
    for index, (number, row) in enumerate(named_rows(manifest)):
        where = f"{manifest}, row {number}"
        path = row["path"]
        split = split_of(row.get("split") or "train")
        label = row["label"] or None
        if split is None:
            raise DhoxError(f"{where}: split {row['split']!r} is unknown.", f"Use one of: {', '.join(SPLIT_OF)}.")
        if label is None and split in {"val", "test"}:
            raise DhoxError(f"{where}: an image of {split} needs a label.", "Add it, or use the split unlabelled.")
        if label is None or split == "unlabelled":
            split, label = "unlabelled", None
        if split not in wanted:
            continue
        path = picture_path(manifest, path)
        if not (manifest.parent / path).is_file():
            raise DhoxError(
                f"{where}: {path} does not exist below {manifest.parent}.", "Mend the path or drop the row."
            )
        name = row.get("name") or path
        if name in seen:
            raise DhoxError(f"{manifest}, rows {seen[name]} and {number} are both {name}.", "Drop one of them.")
        seen[name] = number
        label, group = label and sys.intern(label), sys.intern(row.get("group") or "") or None
        splits[split].append(Item(str(manifest.parent / path), name, label, group, index))
    return splits


def write_manifest(manifest: Path, splits: Splits) -> None:
    """List images by their absolute paths, with their names in DATA, labels, splits and groups. Raises DhoxError for
    images that are no files of their own."""
    check_files(splits)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", "group", "name"])
    for split, items in splits.items():
        for item in items:
            writer.writerow([str(item.path.absolute()), item.label or "", split, item.group or "", item.name])
    write_bytes(manifest, text.getvalue().encode())


def check_files(splits: Splits) -> None:
    """Raise DhoxError for images that are no files of their own."""
    everything = (item for items in splits.values() for item in items)
    packed = next((item for item in everything if item.span is not None or item.column is not None), None)
    if packed is not None:
        raise DhoxError(f"{packed.name} lies in an archive, and a list of files cannot name it.", "Unpack DATA first.")


def picture_path(manifest: Path, path: str) -> str:
    """A path below a manifest's folder as it stands there, or with / for \\ as Windows writes it."""
    return path if "\\" not in path or (manifest.parent / path).is_file() else path.replace("\\", "/")


def absolute_path(path: str | Path) -> str:
    """The path from the root without `..`, links as they are: by it two sources that name one file agree."""
    return os.path.abspath(path)  # noqa: PTH100 - pathlib keeps the ..


def named_rows(manifest: Path, needed: tuple[str, ...] = ("path", "label")) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number of the file, texts by dhox's names of the columns); a missing value is an empty text.

    Raises DhoxError where a column that is `needed` is missing, and for a cell that breaks a line: a quote was not
    closed. (A copy of DATA that dhox wrote has a column `name`, and names of files may hold anything.)
    """
    names: dict[str, str] | None = None
    for number, row in read_rows(manifest):
        if names is None:
            names = columns(manifest, list(row), needed)
        texts = {name: row[column] for name, column in names.items()}
        broken = [name for name, text in texts.items() if "\n" in text or "\r" in text]
        if broken and "name" not in names:
            raise DhoxError(
                f"{manifest}, row {number}: its {broken[0]} goes over several lines ({texts[broken[0]][:40]!r} ...).",
                'Close or remove the quotation mark (") that begins it.',
            )
        yield number, texts


def columns(manifest: Path, found: list[str], needed: tuple[str, ...]) -> dict[str, str]:
    """dhox's name of a column -> the file's. Raises DhoxError where one is missing, or meant by several."""
    lowered = {column.strip().lower(): column for column in found}
    names = {}
    for name, others in COLUMNS.items():
        meant = [lowered[other] for other in others if other in lowered]
        if len(meant) > 1 and name not in lowered:
            raise DhoxError(
                f"{manifest} has several columns for {name}: {', '.join(meant)}.", f"Call one of them {name}."
            )
        if meant:
            names[name] = meant[0]
    if not names.keys() >= set(needed):
        raise DhoxError(f"{manifest} has the columns {shorten(found)}.", f"Name at least: {', '.join(needed)}.")
    return names


def read_rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number in the file, texts by column) of a manifest's rows, one after the other."""
    if manifest.suffix.lower() != ".parquet":
        yield from csv_rows(manifest)
        return
    parquet = require("pyarrow.parquet", "parquet")
    try:
        table = parquet.read_table(manifest)
    except (OSError, ValueError) as err:
        raise DhoxError(f"{manifest} cannot be read as Parquet ({err}).", "Write it again.") from err
    number = 1
    for batch in table.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            number += 1
            yield number, {key: "" if value is None else str(value) for key, value in row.items()}


def csv_rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file whose header says how its cells are separated. Raises DhoxError naming the row."""
    number = 1
    try:
        with regular(manifest).open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            separator = max(SEPARATORS, key=header.count)
            rows = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next(rows, [])]
            for number, row in enumerate(rows, start=2):
                if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
                    raise DhoxError(
                        f"{manifest}, row {number} has {len(row)} cells for {len(names)} columns.",
                        f'Put a cell that holds {separator!r} in quotation marks (").',
                    )
                if row:
                    yield number, dict(zip(names, [cell.strip() for cell in row] + [""] * len(names), strict=False))
    except UnicodeDecodeError as err:
        raise DhoxError(f"{manifest} is not UTF-8 text ({err}).", "Save it as UTF-8.") from err
    except (OSError, csv.Error) as err:
        raise DhoxError(
            f"{manifest} cannot be read as CSV after row {number} ({err}).", "Check the path, and the quotation marks."
        ) from err

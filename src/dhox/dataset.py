"""What DATA may be: an image folder or a manifest, read into named splits (no image is decoded here)."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from dhox.errors import DhoxError, require
from dhox.images import SUFFIXES, UnreadableImageError, decode

SPLITS = ("train", "unlabelled", "val", "test")
T = TypeVar("T")
WHAT_DATA_MAY_BE = (
    "DATA is an image folder (train/CLASS/*, and optionally unlabelled/**, val/CLASS/*, test/CLASS/*) "
    "or a manifest (.csv or .parquet with the columns path, label and optionally split, group)."
)


@dataclass(frozen=True)
class Item:
    """One image: its file, its name (path relative to DATA, with /), its label and its group, where it has them.

    `row`: its row in the manifest, from 0. `span`: (offset, bytes) of the image where `path` is an archive of many.
    """

    path: Path
    name: str
    label: str | None = None
    group: str | None = None
    row: int | None = None
    span: tuple[int, int] | None = None


Splits = dict[str, list[Item]]


def image_bytes(item: Item) -> bytes:
    """The encoded image. Raises OSError."""
    with item.path.open("rb") as file:
        if item.span is None:
            return file.read()
        file.seek(item.span[0])
        return file.read(item.span[1])


def read_image(item: Item) -> Image.Image:
    """The decoded image (see dhox.images.decode). Raises UnreadableImageError."""
    try:
        content = image_bytes(item)
    except OSError as err:
        raise UnreadableImageError(item.name, err.strerror) from err
    return decode(io.BytesIO(content), item.name)


def read_dataset(data: Path, only: str | None = None) -> Splits:
    """Read DATA into its splits, each sorted by name; every split of SPLITS is there, possibly empty.

    `only`: read one split and ask nothing of the others (a board that holds the test images alone). Raises DhoxError
    where DATA is missing, empty, or its labels, splits or groups contradict each other.
    """
    if not data.exists():
        raise DhoxError(f"{data} does not exist. {WHAT_DATA_MAY_BE}")
    wanted = SPLITS if only is None else (only,)
    splits = read_folder(data, wanted) if data.is_dir() else read_manifest(data, wanted)
    if only is None and not any(splits.values()):
        raise DhoxError(f"{data} holds no image. {WHAT_DATA_MAY_BE}")
    for items in splits.values():
        items.sort(key=lambda item: item.name)
    check_groups(splits)
    return splits


def read_folder(root: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read `train/CLASS/**`, `val/CLASS/**`, `test/CLASS/**` and `unlabelled/**`; other files are no images.

    Symbolic links are followed; names that begin with a dot are left out.
    """
    splits: Splits = {split: [] for split in SPLITS}
    for split in wanted:
        labels = {path.name for path in (root / split).glob("*") if path.is_dir() and not path.name.startswith(".")}
        for path in image_files(root / split):
            inside = path.relative_to(root / split).parts
            if split != "unlabelled" and len(inside) < 2:
                raise DhoxError(
                    f"{path} lies in no class folder. Move it to {root / split}/CLASS/, or to {root}/unlabelled/."
                )
            label = None if split == "unlabelled" else inside[0]
            splits[split].append(Item(path, path.relative_to(root).as_posix(), label))
        empty = sorted(labels - {str(item.label) for item in splits[split]})
        if empty and split != "unlabelled":
            raise DhoxError(f"Class folders of {root / split} without an image: {shorten(empty)}. Fill or remove them.")
    return splits


def image_files(folder: Path) -> list[Path]:
    """Every image file below a folder, links followed once each. Raises DhoxError for names that are not UTF-8."""
    found = []
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(Path(place, name))
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError as err:
            raise DhoxError(f"The file name {str(path)!r} is not UTF-8. Rename the file.") from err
    return found


def read_manifest(manifest: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read a manifest; paths are relative to its folder. Rows of `train` without a label are unlabelled."""
    rows = read_rows(manifest)
    if rows and not {"path", "label"} <= rows[0].keys():
        raise DhoxError(f"{manifest} has the columns {', '.join(rows[0])}. Name at least these two: path, label.")
    splits: Splits = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        name = row["path"]
        split = row.get("split") or "train"
        label = row["label"] or None
        where = f"{manifest}, row {number}"
        if split not in SPLITS:
            raise DhoxError(f"{where}: split {split!r} is unknown. Use one of: {', '.join(SPLITS)}.")
        if label is None and split in {"val", "test"}:
            raise DhoxError(f"{where}: an image of {split} needs a label. Add it, or use the split unlabelled.")
        if label is None or split == "unlabelled":
            split, label = "unlabelled", None
        if split not in wanted:
            continue
        if not (manifest.parent / name).is_file():
            raise DhoxError(f"{where}: {name} does not exist below {manifest.parent}. Mend the path or drop the row.")
        if name in seen:
            raise DhoxError(f"{where}: {name} is listed twice. Drop one of the rows.")
        seen.add(name)
        splits[split].append(Item(manifest.parent / name, name, label, row.get("group") or None, number - 2))
    return splits


def read_rows(manifest: Path) -> list[dict[str, str]]:
    """The rows of a manifest as texts; a missing value is an empty text."""
    suffix = manifest.suffix.lower()
    if suffix == ".csv":
        try:
            with manifest.open(newline="", encoding="utf-8-sig") as file:
                return [
                    {key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(file)
                ]
        except UnicodeDecodeError as err:
            raise DhoxError(f"{manifest} is not UTF-8 text ({err}). Save it as UTF-8.") from err
    if suffix == ".parquet":
        parquet = require("pyarrow.parquet", "parquet")
        try:
            table = parquet.read_table(manifest).to_pylist()
        except (OSError, ValueError) as err:
            raise DhoxError(f"{manifest} cannot be read as Parquet ({err}). Write it again.") from err
        return [{key: "" if value is None else str(value) for key, value in row.items()} for row in table]
    raise DhoxError(f"{manifest} is neither a folder nor a .csv or .parquet file. {WHAT_DATA_MAY_BE}")


def check_groups(splits: Splits) -> None:
    """Refuse a group (camera, recording) that stands in more than one of train (or unlabelled), val and test."""
    home: dict[str, str] = {}
    for split, items in splits.items():
        side = "train" if split == "unlabelled" else split
        for item in items:
            if item.group is not None and home.setdefault(item.group, side) != side:
                raise DhoxError(
                    f"Group {item.group!r} stands in {home[item.group]} and in {side}, so {side} would measure "
                    "memory. Keep each group in one split."
                )


def class_names(splits: Splits, class_file: Path | None) -> list[tuple[str, str]]:
    """(label, prompt name) of every class, in index order: `class_file`, else the code-point order of train's labels.

    A line of `class_file` is a label, or a label and its prompt name with a tab or comma between. The default prompt
    name is the label with `_` as space. Raises DhoxError for fewer than two classes, repeats, and labels outside.
    """
    found = {item.label for item in splits["train"] if item.label is not None}
    if class_file is None:
        classes = [(label, label.replace("_", " ")) for label in sorted(found)]
    else:
        classes = read_class_file(class_file)
    labels = [label for label, _ in classes]
    known = {None, *labels}
    for split in ("train", "val", "test"):
        outside = sorted({str(item.label) for item in splits[split] if item.label not in known})
        if outside:
            origin = "the training labels" if class_file is None else str(class_file)
            raise DhoxError(
                f"{split} has labels outside the class list ({origin}): {shorten(outside)}. "
                "Rename or remove them, or add them to the list."
            )
    if len(classes) < 2:
        raise DhoxError(
            f"A classifier needs at least two classes, found: {shorten(labels)}. Name them with --classes, or: "
            f"{WHAT_DATA_MAY_BE}"
        )
    return classes


def read_class_file(class_file: Path) -> list[tuple[str, str]]:
    """Read `--classes FILE`."""
    try:
        lines = [line.strip() for line in class_file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as err:
        raise DhoxError(f"The class list {class_file} cannot be read ({err}). Check the path.") from err
    classes = []
    for line in lines:
        label, _, prompt = line.partition("\t" if "\t" in line else ",")
        classes.append((label.strip(), prompt.strip() or label.strip().replace("_", " ")))
    repeated = sorted(label for label, count in Counter(label for label, _ in classes).items() if count > 1)
    if repeated:
        raise DhoxError(f"{class_file} lists a class twice: {shorten(repeated)}. Keep one line for each.")
    return classes


def class_numbers(items: list[Item], labels: list[str]) -> np.ndarray:
    """Class numbers of labelled items, int64 [N]; `labels` in index order."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[str(item.label)] for item in items], np.int64)


def spread(items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread over the list (which is sorted by name, so by class)."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def shorten(names: list[str], most: int = 8) -> str:
    """A list for an error message: the first few names and how many there are besides."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

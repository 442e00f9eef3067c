"""labels.csv: what the log comes to, as a manifest that every command takes."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

from dhox.artefacts.files import write_bytes
from dhox.artefacts.suggestions import COLUMNS
from dhox.data.dataset import Item, shorten
from dhox.data.manifest import absolute_path, named_rows, picture_path
from dhox.errors import DhoxError
from dhox.labelling.state import State


def write_table(path: Path, labels: dict[str, str], items: dict[str, Item]) -> int:
    """Write the labels of images that are in DATA, atomically; how many are not. `items`: by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    missing = 0
    for name, label in labels.items():
        item = items.get(name)
        if item is None or not (packed(item) or item.path.is_file()):
            missing += 1
            continue
        writer.writerow([path_in(path.parent, item), label, "train", item.group or "", name])
    write_bytes(path, text.getvalue().encode())
    return missing


def packed(item: Item) -> bool:
    """Whether an image lies in an archive or a table, so that it has no path of its own."""
    return item.span is not None or item.column is not None


def path_in(folder: Path, item: Item) -> str:
    """What names an image in a manifest of `folder`: its path from there where it is below, else the absolute one."""
    if packed(item):
        return item.name
    path = item.path.absolute()
    return str(path.relative_to(folder.absolute())) if path.is_relative_to(folder.absolute()) else str(path)


def labels_in(manifest: Path) -> list[tuple[str, str, str]]:
    """(name, absolute path, label) of the rows of a manifest that have a label."""
    return [
        (
            row.get("name") or row["path"],
            absolute_path(manifest.parent / picture_path(manifest, row["path"])),
            row["label"],
        )
        for _, row in named_rows(manifest)
        if row["label"]
    ]


def check_own(path: Path, state: State, taken: Path | None) -> None:
    """Raise DhoxError where labels.csv says what its log never said: somebody else wrote it, or changed it.

    `taken`: the manifest of `--import`.
    """
    if not path.exists() or (taken is not None and taken.resolve() == path.resolve()):
        return
    strange = [name for name, _, label in labels_in(path) if (name, state.renamed.get(label, label)) not in state.said]
    if strange:
        raise DhoxError(
            f"{path} has labels that its log {log_of(path)} never had: {shorten(strange, 3)}.",
            f"Take them into the log with --import {shlex.quote(str(path))}, or choose another --out.",
        )


def log_of(path: Path) -> Path:
    """The log beside a labels.csv."""
    return path.with_suffix(".jsonl")

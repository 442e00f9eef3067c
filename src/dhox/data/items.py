"""An image of DATA: where its bytes lie, what it is called, and how it is read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from dhox.data.images import UnreadableImageError, decode
from dhox.errors import DhoxError, require
from dhox.system.regular_file import regular

SPLITS = ("train", "unlabelled", "val", "test")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its file, its name (unique in DATA, with /), its label and its group, where it has them.

    `row`: its place in DATA's own order, from 0, where DATA has one (the row of a manifest or table). `span`: (offset,
    bytes) of the image where `file` is an archive of many. `column`: the image column where `file` is an Arrow file,
    of which `row` is then the row. There are millions of items: a file as Path would take most of their memory.
    """

    file: str
    name: str
    label: str | None = None
    group: str | None = None
    row: int | None = None
    span: tuple[int, int] | None = None
    column: str | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)


Splits = dict[str, list[Item]]


def image_bytes(item: Item) -> bytes:
    """The encoded image. Raises OSError."""
    if item.column is not None:
        return bytes(arrow_table(item.file)[item.column][item.row]["bytes"].as_py())
    with open(regular(item.file), "rb") as file:
        if item.span is None:
            return file.read()
        file.seek(item.span[0])
        return file.read(item.span[1])


def digest(content: bytes) -> str:
    """The content hash of an encoded image: SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def content_hash(item: Item) -> str:
    """The content hash of an image; empty where it cannot be read."""
    try:
        return digest(image_bytes(item))
    except OSError:
        return ""


@cache
def arrow_table(path: str) -> Any:
    """An Arrow file (stream format) as a memory-mapped pyarrow table, opened once in each process."""
    arrow, ipc = require("pyarrow", "hf"), require("pyarrow.ipc", "hf")
    with arrow.memory_map(path) as file:  # the table keeps the map alone: no descriptor for each of many files
        return ipc.open_stream(file).read_all()


def read_image(item: Item, jpeg_side: int | None = None) -> Image.Image:
    """The decoded image (see dhox.data.images.decode). Raises UnreadableImageError."""
    try:
        content = image_bytes(item)
    except OSError as err:
        raise UnreadableImageError(item.name, err.strerror or str(err)) from err
    return decode(io.BytesIO(content), item.name, jpeg_side)


def label_of_number(number: int, labels: list[str] | None, where: str) -> str:
    """The label that a class number stands for: `labels[number]`, or the number as text.

    `labels`: the class list in index order, where one is given; a list that names the number itself is taken at its
    word. Raises DhoxError for a number outside the list.
    """
    if labels is None or str(number) in labels:
        return str(number)
    if not 0 <= number < len(labels):
        raise DhoxError(
            f"{where} has the class number {number}, the class list has {len(labels)} classes (0 to "
            f"{len(labels) - 1}).",
            "Mend the label or the list.",
        )
    return labels[number]


def shorten(names: list[str], most: int = 8) -> str:
    """A list for an error message: the first few names and how many there are besides."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def spread(items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread over the list (which is sorted by name)."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]

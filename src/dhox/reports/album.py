"""Thumbnails of the images of DATA, as a page embeds them: few, small, upright, and never another image."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dhox.data.dataset import Item, data_exists, read_dataset, read_image
from dhox.data.images import UnreadableImageError
from dhox.data.items import content_hash
from dhox.errors import DhoxError
from dhox.reports.sections import Picture, Tone

SIDE = 88  # pixels, the longer side of a thumbnail at most
QUALITY = 60  # of its JPEG
MOST_BYTES = 200_000  # of all images on a page, as they stand there


class Wanted(NamedTuple):
    """An image by its name in DATA, and what to say of it."""

    name: str
    text: str
    tone: Tone = ""


@dataclass
class Album:
    """The thumbnails of one page. `items`: the images of DATA by name; `gone`: why there are none; `known`: SHA-256 by
    name where it is recorded; `limit`: bytes left, None without a limit."""

    items: dict[str, Item] = field(default_factory=dict)
    gone: str = ""
    known: dict[str, str] = field(default_factory=dict)
    limit: int | None = MOST_BYTES
    made: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)  # URI and size by name
    left_out: dict[str, str] = field(default_factory=dict)  # why, by name

    def pictures(self, wanted: Iterable[Wanted]) -> tuple[Picture, ...]:
        """The images that there are, in their order, until the bytes of the page are spent.

        What is missing, cannot be read or is no longer the image that was answered is left out, and counted.
        """
        wanted = list(wanted)
        self._make([one.name for one in wanted if one.name not in self.made and one.name not in self.left_out])
        return tuple(
            Picture(*self.made[one.name], one.text, one.name, one.tone) for one in wanted if one.name in self.made
        )

    def _make(self, names: list[str]) -> None:
        """Thumbnails by several threads, a few at a time, in order."""
        rest: Iterator[str] = iter(dict.fromkeys(names))
        threads = min(os.cpu_count() or 1, 8)
        with ThreadPoolExecutor(threads) as pool:
            while self.limit != 0 and (some := list(islice(rest, 2 * threads))):
                for name, found in zip(some, pool.map(self._thumbnail, some), strict=True):
                    if isinstance(found, str):
                        self.left_out[name] = found
                    elif self.limit is None:
                        self.made[name] = found
                    elif len(found[0]) > self.limit:
                        self.limit = 0
                    else:
                        self.made[name], self.limit = found, self.limit - len(found[0])

    def _thumbnail(self, name: str) -> tuple[str, tuple[int, int]] | str:
        """A data URI with its size, or why there is none."""
        item = self.items.get(name)
        if item is None:
            return "missing"
        if name in self.known and (found := content_hash(item)) and found != self.known[name]:
            return "changed since"
        try:
            return thumbnail(read_image(item))
        except UnreadableImageError:
            return "missing" if not Path(item.file).exists() else "unreadable"

    def note(self) -> str:
        """What is not shown, and why, as a sentence; empty where everything is."""
        if self.gone:
            return f"No pictures: {self.gone}."
        counts = {why: [*self.left_out.values()].count(why) for why in ("missing", "unreadable", "changed since")}
        told = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
        return f"Pictures left out: {told}." if told else ""


def thumbnail(image: Image.Image) -> tuple[str, tuple[int, int]]:
    """A small JPEG of an RGB image as a data URI, and its width and height."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", image.size


def open_album(
    places: list[str], names: Iterable[str], split: str, gallery: int | None = None, known: dict[str, str] | None = None
) -> Album:
    """The album of a page.

    `places`: addresses where DATA may be, the first that is there is taken. `names`: the images that may be shown, of
    `split`, by their names in DATA. `gallery`: as many of each kind, whatever that weighs; 0: none.
    """
    if gallery == 0:
        return Album(gone="--gallery 0 asked for none")
    place = next((place for place in places if place and data_exists(Path(place))), None)
    if place is None:
        return Album(gone=f"the images are not on this machine ({places[0] if places else 'no DATA is recorded'})")
    try:
        items = find_items(Path(place), set(names), split)
    except (DhoxError, OSError) as err:
        return Album(gone=f"{place} cannot be read: {str(err).rstrip('.')}")
    if not items:
        return Album(gone=f"none of the images is in {place} any more")
    return Album(items, known=known or {}, limit=None if gallery else MOST_BYTES)


def find_items(data: Path, names: set[str], split: str) -> dict[str, Item]:
    """Images of DATA by name: of one split, and of all where some are not there."""
    found = {item.name: item for item in read_dataset(data, split)[split] if item.name in names}
    if len(found) < len(names):
        found |= {item.name: item for items in read_dataset(data).values() for item in items if item.name in names}
    return found

"""What every command on DATA begins with: read it, know its classes, look at every image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dhox.console import say
from dhox.data.dataset import Item, Splits, class_names, listed_labels, own_classes, read_dataset
from dhox.data.labels_file import with_labels
from dhox.data.leftovers import Leftovers
from dhox.distill.images.scan import Seen, scan, scan_memory
from dhox.distill.images.shards import row_keys
from dhox.distill.images.summary import data_lines


@dataclass(frozen=True)
class Listing:
    """DATA as it is listed; no image is read yet. `class_file`: the user's own class list."""

    data: Path
    splits: Splits
    class_file: Path | None

    @cached_property
    def classes(self) -> list[tuple[str, str]]:
        """(label, prompt name) in index order. Raises DhoxError for too few, and for labels outside the list."""
        return class_names(self.splits, self.class_file, own_classes(self.data))

    @property
    def labels(self) -> list[str]:
        """The classes' labels, in index order."""
        return [label for label, _ in self.classes]

    @property
    def prompts(self) -> list[str]:
        """The classes' prompt names, in index order."""
        return [prompt for _, prompt in self.classes]

    @property
    def training(self) -> list[Item]:
        """The images that L and U are drawn from; the others are answered whole."""
        return self.splits["train"] + self.splits["unlabelled"]

    @property
    def n_rows(self) -> int:
        """Images of all splits: the rows of a manifest."""
        return sum(len(items) for items in self.splits.values())


@dataclass(frozen=True)
class Images:
    """DATA after a look at every image: `splits` without the bad ones, and what each image is, by name."""

    splits: Splits
    seen: dict[str, Seen]

    @property
    def content(self) -> dict[str, bytes]:
        """Name -> content hash."""
        return {name: seen.content for name, seen in self.seen.items()}

    @property
    def skipped(self) -> list[str]:
        """The names of unreadable images."""
        return sorted(name for name, seen in self.seen.items() if seen.reason is not None)

    def keys(self, items: list[Item]) -> np.ndarray:
        """The keys [N] under which caches keep these images (see row_keys)."""
        return row_keys((item.name for item in items), (self.seen[item.name].content.hex() for item in items))

    def sizes(self, items: list[Item]) -> np.ndarray:
        """Width and height of each image in pixels, int64 [N, 2]."""
        seen = (self.seen[item.name] for item in items)
        sides = (side for one in seen for side in (one.width, one.height))
        return np.fromiter(sides, np.int64, 2 * len(items)).reshape(-1, 2)


def list_images(
    data: Path, class_file: Path | None = None, group_by: str | None = None, *, labels: Path | None = None,
    tell: bool = True,
) -> Listing:  # fmt: skip
    """Read DATA's splits, with the labels of the file `labels` beside it, and say (`tell`) what of them is not read.

    Raises DhoxError for what is no DATA, and for labels of none of its images.
    """
    leftovers = Leftovers()
    splits = read_dataset(data, group_by=group_by, labels=listed_labels(class_file), leftovers=leftovers)
    told = leftovers.lines()
    if labels is not None:
        found = with_labels(splits, labels)
        splits, told = found.splits, [*told, *found.notes]
    for line in told if tell else ():
        say(line)
    return Listing(data, splits, class_file)


def look(listing: Listing, *, skip_bad_images: bool, cache: Path | None = None, tell: bool = True) -> Images:
    """Look at every image, and say (`tell`) what there is. `cache`: the root of all caches, where the results of the
    last look are remembered.

    Raises DhoxError for unreadable images, unless they are to be skipped.
    """
    memory = None if cache is None else scan_memory(cache, listing.data)
    images = Images(*scan(listing.splits, skip_bad_images, memory))
    if tell:
        everything = [item for items in images.splits.values() for item in items]
        for line in data_lines(images.splits, images.content, images.sizes(everything)):
            say(line)
    return images

"""DATA as an annotation tool exports it: images with the answers of people, and where one image has one class."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from dhox.data.items import SPLITS, Item, Splits, shorten
from dhox.data.leftovers import Leftovers
from dhox.data.split_names import SPLIT_OF, split_of
from dhox.data.whereabouts import Folder, paths_meant
from dhox.errors import DhoxError


@dataclass
class Annotated:
    """An image as a tool lists it. `paths`: where it may lie, the likeliest first; empty: what the reference says.

    `choices`: the classes that people named, none where nobody did.
    """

    reference: str
    choices: set[str] = field(default_factory=set)
    split: str = "train"
    group: str | None = None
    paths: list[str] = field(default_factory=list)


def annotated_splits(
    listing: Path, images: list[Annotated], wanted: tuple[str, ...] = SPLITS, leftovers: Leftovers | None = None
) -> Splits:
    """The images of the wanted splits, as files below the listing's folder.

    Of one class named, that is the label. Of none, the image is unlabelled; of several too, and that is counted in
    `leftovers`. Raises DhoxError for unknown splits, images of val and test without one class, and images not found.
    """
    splits: Splits = {split: [] for split in SPLITS}
    chosen = []
    for image in images:
        split = split_of(image.split)
        if split is None:
            raise DhoxError(
                f"{listing}: {image.reference} is of the split {image.split!r}, which is unknown.",
                f"Use one of: {', '.join(SPLIT_OF)}.",
            )
        if len(image.choices) != 1 and split in {"val", "test"}:
            raise DhoxError(
                f"{listing}: {image.reference} of {split} needs one class and has {shorten(sorted(image.choices))}.",
                "Annotate it again, or use the split unlabelled.",
            )
        if split in wanted:
            chosen.append((split, image))
    where = {image.reference: image.paths or paths_meant(image.reference) for _, image in chosen}
    found = Folder(listing.parent).find_all(listing, where)
    for split, image in chosen:
        name = found[image.reference]
        label = sys.intern(next(iter(image.choices))) if len(image.choices) == 1 and split != "unlabelled" else None
        if len(image.choices) > 1 and leftovers is not None:
            leftovers.unsure.append(name)
        splits[split].append(Item(str(listing.parent / name), name, label, image.group))
    return splits

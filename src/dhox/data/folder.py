"""DATA as an image folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dhox.data.images import SUFFIXES
from dhox.data.items import SPLITS, Item, Splits, shorten
from dhox.errors import DhoxError


def read_folder(root: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read `train/CLASS/**`, `val/CLASS/**`, `test/CLASS/**` and `unlabelled/**`; other files are no images.

    Symbolic links are followed; names that begin with a dot are left out.
    """
    splits: Splits = {split: [] for split in SPLITS}
    for split in wanted:
        labels = {path.name for path in (root / split).glob("*") if path.is_dir() and not path.name.startswith(".")}
        for file, inside in image_files(root / split):
            label, slash, _ = inside.partition("/")
            if split != "unlabelled" and not slash:
                raise DhoxError(
                    f"{file} lies in no class folder.", f"Move it to {root / split}/CLASS/, or to {root}/unlabelled/."
                )
            splits[split].append(Item(file, f"{split}/{inside}", None if split == "unlabelled" else sys.intern(label)))
        empty = sorted(labels - {str(item.label) for item in splits[split]})
        if empty and split != "unlabelled":
            raise DhoxError(
                f"Class folders of {root / split} without an image: {shorten(empty)}.", "Fill or remove them."
            )
    return splits


def image_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, its name below the folder with /) of every image file below a folder, links followed once each.

    Raises DhoxError for names that are not UTF-8.
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            if name[name.rfind(".") :].lower() not in SUFFIXES or name.startswith("."):
                continue
            file = f"{place}/{name}"
            try:
                file.encode()
            except UnicodeEncodeError as err:
                raise DhoxError(f"The file name {file!r} is not UTF-8.", "Rename the file.") from err
            yield file, file[len(str(folder)) + 1 :]

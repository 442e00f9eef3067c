"""`--sort-into`: links to the images, in a folder for each answer."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from dhox.errors import DhoxError, UsageError
from dhox.predicting.rows import Row

UNKNOWN, UNREADABLE = "_unknown", "_unreadable"


def begin_sorting(folder: Path, resume: bool) -> None:
    """Make the folder. Raises UsageError where it holds something already, DhoxError where it cannot be made."""
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise UsageError(f"{folder} is not empty.", "Sort into a new folder, or continue with --resume.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DhoxError(f"{folder} cannot be made ({err.strerror}).", "Sort into another place.") from err


def sort_into(folder: Path, rows: list[Row]) -> None:
    """Link each image from DIR/CLASS/NAME, from DIR/_unknown or DIR/_unreadable.

    Where another image has that name, a part of a hash of its path stands before the suffix. Raises DhoxError for a
    disk that takes no links.
    """
    for row in rows:
        image = Path(row.path)
        place = folder / folder_name(UNREADABLE if row.error else row.predicted or UNKNOWN)
        link = place / image.name
        if os.path.lexists(link) and link.readlink() != image.absolute():
            link = place / f"{image.stem}-{sha256(os.fsencode(image.absolute())).hexdigest()[:8]}{image.suffix}"
        try:
            place.mkdir(exist_ok=True)
            if not os.path.lexists(link):
                link.symlink_to(image.absolute())
        except OSError as err:
            raise DhoxError(
                f"{link} cannot be linked to {image} ({err.strerror}).",
                "Sort into a disk that takes links.",
            ) from err


def folder_name(name: str) -> str:
    """A class name as the name of a folder."""
    plain = name.replace("/", "_").replace("\0", "_")
    return f"_{plain}" if plain in {"", ".", ".."} else plain

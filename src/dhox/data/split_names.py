"""What a split may be called, the same for every reader of DATA, in any case of letters."""

from __future__ import annotations

from pathlib import Path

from dhox.errors import DhoxError

NAMES = {
    "train": ("train", "training"),
    "unlabelled": ("unlabelled", "unlabeled", "unsupervised"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """The split that a name means; None for another name."""
    return SPLIT_OF.get(name.strip().lower())


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split that DATA has. Raises DhoxError where two folders mean one split."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = split_of(folder.name)
        if split is None:
            continue
        if split in found:
            raise DhoxError(
                f"{root} has two folders for {split}: {found[split].name} and {folder.name}.", "Put them together."
            )
        found[split] = folder
    return found

"""DATA as an image folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dhox.data.images import SUFFIXES
from dhox.data.items import SPLITS, Item, Splits, shorten
from dhox.data.leftovers import Leftovers, is_system
from dhox.data.split_names import split_folders, split_of
from dhox.errors import DhoxError

NO_LABEL = "no_label"  # CVAT's folder beside the classes


def read_folder(root: Path, wanted: tuple[str, ...] = SPLITS, leftovers: Leftovers | None = None) -> Splits:
    """Read `train/CLASS/**`, `val/CLASS/**`, `test/CLASS/**` and `unlabelled/**`, by any name of `split_names`.

    Without any of these folders: `CLASS/**` as train, or a folder of images alone as unlabelled. Symbolic links are
    followed. What is not read is counted in `leftovers`.
    """
    splits: Splits = {split: [] for split in SPLITS}
    folders = split_folders(root)
    if not folders:
        return splits | {split: items for split, items in read_unsplit(root, leftovers).items() if split in wanted}
    for split, folder in folders.items():
        if split in wanted:
            splits[split] = read_split(folder, split, leftovers)
    if leftovers is not None:
        count_strangers(root, leftovers)
    return splits


def read_unsplit(root: Path, leftovers: Leftovers | None) -> Splits:
    """The images of a folder without splits: those in folders are train, by class; else all are unlabelled.

    So are those in `no_label/`, beside the classes of CVAT's ImageNet export.
    """
    left = leftovers or Leftovers()
    found = list(image_files(root, left, classes=True))
    if not any("/" in inside for _, inside in found):
        return {"unlabelled": [Item(file, inside) for file, inside in found]}
    if outside := sum("/" not in inside for _, inside in found):
        left.folders[""] = outside
    parts = [(file, inside, inside.partition("/")[0]) for file, inside in found if "/" in inside]
    return {
        "train": [Item(file, inside, sys.intern(label)) for file, inside, label in parts if label != NO_LABEL],
        "unlabelled": [Item(file, inside) for file, inside, label in parts if label == NO_LABEL],
    }


def read_split(folder: Path, split: str, leftovers: Leftovers | None) -> list[Item]:
    """The images of one split. Raises DhoxError for images in no class folder, and class folders without images."""
    labels = {path.name for path in folder.glob("*") if path.is_dir() and not is_system(path.name)}
    items = []
    for file, inside in image_files(folder, leftovers, classes=split != "unlabelled"):
        label, slash, _ = inside.partition("/")
        if split != "unlabelled" and not slash:
            raise DhoxError(
                f"{file} lies in no class folder.",
                f"Move it to {folder}/CLASS/, or to {folder.parent}/unlabelled/.",
            )
        items.append(Item(file, f"{folder.name}/{inside}", None if split == "unlabelled" else sys.intern(label)))
    empty = sorted(labels - {str(item.label) for item in items})
    if empty and split != "unlabelled":
        raise DhoxError(f"Class folders of {folder} without an image: {shorten(empty)}.", "Fill or remove them.")
    return items


def count_strangers(root: Path, leftovers: Leftovers) -> None:
    """Count what lies at the top of DATA and is no split."""
    for path in root.iterdir():
        if is_system(path.name):
            leftovers.system += 1
        elif path.is_dir() and split_of(path.name) is None:
            images = sum(1 for _ in image_files(path))
            if images:
                leftovers.folders[path.name] = images
        elif path.is_file() and path.suffix.lower() in SUFFIXES:
            leftovers.folders[""] += 1


def check_links(folder: Path, first: str, second: str) -> None:
    """Raise DhoxError where two places below a folder of classes are one folder by links, and of two classes."""
    classes = [Path(place).relative_to(folder).parts[:1] for place in (first, second)]
    if all(classes) and classes[0] != classes[1]:
        raise DhoxError(
            f"{first} and {second} are the same folder by links, and its images cannot be of both classes.",
            "Remove the link, or give each class a folder of its own.",
        )


def image_files(
    folder: Path, leftovers: Leftovers | None = None, *, classes: bool = False
) -> Iterator[tuple[str, str]]:
    """(file, its name below the folder with /) of every image file below a folder in order, links followed once each.

    `classes`: the folders in it are classes. Raises DhoxError for names that are not UTF-8, and for two classes that
    are one folder by links.
    """
    left = leftovers or Leftovers()
    seen: dict[Path, str] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            if classes:
                check_links(folder, seen[real], place)
            folders[:] = []
            continue
        seen[real] = place
        left.system += sum(map(is_system, folders))
        folders[:] = sorted(name for name in folders if not is_system(name))
        for name in sorted(names):
            if is_system(name):
                left.system += 1
            elif name[name.rfind(".") :].lower() not in SUFFIXES:
                left.file(name)
            else:
                file = f"{place}/{name}"
                try:
                    file.encode()
                except UnicodeEncodeError as err:
                    raise DhoxError(f"The file name {file!r} is not UTF-8.", "Rename the file.") from err
                yield file, file[len(str(folder)) + 1 :]

"""DATA as one of the 11 datasets of the paper, laid out as the CoOp project asks (its DATASETS.md)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from dhox.data.folder import image_files
from dhox.data.items import SPLITS, Item, Splits, shorten
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

Listing = dict[str, list[tuple[str, str]]]  # split -> (image path below DATA, label), in the dataset's own order

IMAGES_OF = {  # the split file that a folder holds -> where the paths in it begin
    "split_zhou_Caltech101.json": "101_ObjectCategories",
    "split_zhou_DescribableTextures.json": "images",
    "split_zhou_EuroSAT.json": "2750",
    "split_zhou_Food101.json": "images",
    "split_zhou_OxfordFlowers.json": "jpg",
    "split_zhou_OxfordPets.json": "images",
    "split_zhou_StanfordCars.json": ".",
    "split_zhou_SUN397.json": "SUN397",
    "split_zhou_UCF101.json": "UCF-101-midframes",
}
CLASS_NAMES = "classnames.txt"  # ImageNet: a line "n01440764 tench" per class
VARIANTS = "variants.txt"  # FGVC-Aircraft: a class per line


def _split_file(root: Path) -> Path | None:
    """The `split_zhou_*.json` of one of nine datasets."""
    return next((root / name for name in IMAGES_OF if (root / name).is_file()), None)


def _aircraft_folder(root: Path) -> Path | None:
    """The folder of FGVC-Aircraft's lists: DATA, or the `data` of its archive."""
    return next((place for place in (root, root / "data") if (place / VARIANTS).is_file()), None)


def _is_imagenet(root: Path) -> bool:
    """Whether a folder holds `classnames.txt` and `images/train` or `images/val`."""
    return (root / CLASS_NAMES).is_file() and any((root / "images" / split).is_dir() for split in ("train", "val"))


def is_coop(root: Path) -> bool:
    """Whether a folder is one of the 11 datasets."""
    return _split_file(root) is not None or _aircraft_folder(root) is not None or _is_imagenet(root)


def read_coop(root: Path, wanted: tuple[str, ...] = SPLITS) -> Splits:
    """Read one of the 11 datasets with its own train, val and test; `row` is the place in the dataset's own order.

    ImageNet's val is its test, and it has no val. Raises DhoxError where lists and images contradict each other.
    """
    if (file := _split_file(root)) is not None:
        listing = _zhou_listing(file)
    elif (folder := _aircraft_folder(root)) is not None:
        listing = _aircraft_listing(root, folder)
    else:
        return _read_imagenet(root, wanted)
    splits: Splits = {split: [] for split in SPLITS}
    for split in wanted:
        entries = listing.get(split, [])
        for row, (name, label) in enumerate(entries):
            splits[split].append(Item(str(root / name), name, label, row=row))
        missing = [item.name for item in splits[split] if not item.path.is_file()]
        if missing:
            raise DhoxError(
                f"{len(missing)} of the {len(entries)} images that {root} lists for {split} are missing: "
                f"{shorten(missing)}.",
                "Unpack the dataset's images there.",
            )
    counts = Counter(item.name for items in splits.values() for item in items)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DhoxError(f"{root} lists images twice: {shorten(twice)}.", "Download its split file again.")
    return splits


def coop_classes(root: Path) -> list[tuple[str, str]]:
    """(label, prompt name) of every class in the dataset's own order. Raises DhoxError for contradictory lists."""
    if (file := _split_file(root)) is not None:
        numbers = {(number, name) for rows in _zhou_rows(file).values() for _, number, name in rows}
        labels = [name for _, name in sorted(numbers)]
        if [number for number, _ in sorted(numbers)] != list(range(len(labels))) or len(set(labels)) < len(labels):
            raise DhoxError(f"{file} gives classes and their numbers that contradict each other.", "Download it again.")
        return [(label, label.replace("_", " ")) for label in labels]
    if (folder := _aircraft_folder(root)) is not None:
        return [(label, label) for label in lines(folder / VARIANTS)]
    prompts = dict(line.split(" ", 1) for line in lines(root / CLASS_NAMES) if " " in line)
    folders = sorted(path.name for path in (root / "images/train").glob("*") if path.is_dir())
    unknown = [folder for folder in folders if folder not in prompts]
    if unknown:
        raise DhoxError(f"{root / CLASS_NAMES} lacks these folders of images/train: {shorten(unknown)}.", "Add them.")
    return [(folder, prompts[folder].strip().replace("_", " ")) for folder in folders]


def _zhou_rows(file: Path) -> dict[str, list[tuple[str, int, str]]]:
    """split -> (path, class number, class name) of every image in a `split_zhou_*.json`."""
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
        return {
            split: [(str(path), int(number), str(name)) for path, number, name in content[split]]
            for split in ("train", "val", "test")
        }
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DhoxError(f"{file} is not a split file of the CoOp project ({err!r}).", "Download it again.") from err


def _zhou_listing(file: Path) -> Listing:
    folder = Path(IMAGES_OF[file.name])
    return {
        split: [((folder / path).as_posix(), name) for path, _, name in rows]
        for split, rows in _zhou_rows(file).items()
    }


def _aircraft_listing(root: Path, folder: Path) -> Listing:
    """The images of `images_variant_{train,val,test}.txt`: a line "1025794 707-320" per image."""
    images = folder.relative_to(root) / "images"
    listing = {}
    for split in ("train", "val", "test"):
        rows = [line.partition(" ") for line in lines(folder / f"images_variant_{split}.txt")]
        listing[split] = [((images / f"{name}.jpg").as_posix(), label) for name, _, label in rows]
    return listing


def _read_imagenet(root: Path, wanted: tuple[str, ...]) -> Splits:
    """`images/train/nXXXXXXXX/*` as train, `images/val/nXXXXXXXX/*` as test; the label is the folder."""
    splits: Splits = {split: [] for split in SPLITS}
    for split, folder in (("train", root / "images/train"), ("test", root / "images/val")):
        for file, inside in image_files(folder) if split in wanted else ():
            label, slash, _ = inside.partition("/")
            if not slash:
                raise DhoxError(f"{file} lies in no class folder.", f"Sort {folder} into folders like n01440764.")
            splits[split].append(Item(file, f"images/{folder.name}/{inside}", sys.intern(label)))
    return splits


def lines(file: Path) -> list[str]:
    """The lines of a text file that hold something."""
    try:
        return [line.strip() for line in regular(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as err:
        raise DhoxError(f"{file} cannot be read ({err}).", "Unpack the dataset again.") from err

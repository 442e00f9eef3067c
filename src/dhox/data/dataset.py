"""What DATA may be, read into named splits and a class list (no image is decoded here)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from dhox.data.coop import coop_classes, is_coop, read_coop
from dhox.data.cvat import is_cvat, read_cvat
from dhox.data.folder import read_folder
from dhox.data.hf_dataset import ADDRESS, hf_classes, is_saved, read_hf
from dhox.data.items import SPLITS, Item, Splits, image_bytes, read_image, shorten, spread
from dhox.data.label_studio import is_label_studio, read_label_studio
from dhox.data.leftovers import Leftovers
from dhox.data.manifest import MANIFESTS, read_manifest
from dhox.data.spellings import check_spellings
from dhox.data.tar_shards import read_shards, shard_files
from dhox.errors import DhoxError, not_there
from dhox.system.regular_file import regular

__all__ = [  # with what dhox.data.items says about one image, so that a reader of DATA imports this module alone
    "SPLITS", "WHAT_DATA_MAY_BE", "Item", "Splits", "check_exists", "check_labels", "class_names", "class_numbers",
    "data_address", "data_exists", "data_name", "image_bytes", "listed_labels", "own_classes", "read_class_file",
    "read_dataset", "read_image", "shorten", "spread",
]  # fmt: skip

WHAT_DATA_MAY_BE = (
    "DATA is an image folder (train/CLASS/*, and optionally unlabelled/**, val/CLASS/*, test/CLASS/*; or CLASS/* "
    "alone, or unlabelled images alone) "
    "or a manifest (.csv, .tsv or .parquet with the columns path, label and optionally split, group); exports of Label "
    "Studio and CVAT, WebDataset shards (train/*.tar), a saved Hugging Face dataset, hf:ORG/NAME and the CoOp datasets "
    "are read too (docs/data.md)."
)


def read_dataset(
    data: Path,
    only: str | None = None,
    *,
    group_by: str | None = None,
    labels: list[str] | None = None,
    leftovers: Leftovers | None = None,
) -> Splits:
    """Read DATA into its splits, each sorted by name; every split of SPLITS is there, possibly empty.

    `only`: read one split and ask nothing of the others (a board that holds the test images alone). `group_by`: a
    pattern whose first group, searched in the image's name, is its group. `labels`: the class list in index order, for
    sources whose labels are numbers. `leftovers`: counts what is not read. Raises DhoxError where DATA is missing,
    empty, or its labels, splits or groups contradict each other.
    """
    check_exists(data)
    wanted = SPLITS if only is None else (only,)
    if _is_hf(data):
        splits = read_hf(data, wanted, labels)
    elif is_label_studio(data):
        splits = read_label_studio(data, wanted, leftovers)
    elif is_cvat(data):
        splits = read_cvat(data, wanted, leftovers)
    elif not data.is_dir():
        if data.suffix.lower() not in MANIFESTS:
            raise DhoxError(f"{data} is neither a folder nor a .csv, .tsv or .parquet file.", f"{WHAT_DATA_MAY_BE}")
        splits = read_manifest(data, wanted)
    elif is_coop(data):
        splits = read_coop(data, wanted)
    elif any(shard_files(data).values()):
        splits = read_shards(data, wanted, labels)
    else:
        splits = read_folder(data, wanted, leftovers)
    unlabelled = [item for item in splits["train"] if item.label is None]
    splits["train"] = [item for item in splits["train"] if item.label is not None]
    splits["unlabelled"] += unlabelled if "unlabelled" in wanted else []
    if only is None and not any(splits.values()):
        raise DhoxError(f"{data} holds no image.", f"{WHAT_DATA_MAY_BE}")
    for split, items in splits.items():
        grouped = items if group_by is None else _with_groups(items, group_by)
        splits[split] = sorted(grouped, key=lambda item: item.name)
    _check_groups(splits)
    return splits


def _is_hf(data: Path) -> bool:
    """Whether DATA is a Hugging Face dataset: `hf:...`, or a folder that save_to_disk wrote."""
    return str(data).startswith(ADDRESS) or is_saved(data)


def check_exists(data: Path) -> None:
    """Raise UsageError where DATA is not there: what a command asks first, before it imports anything heavy."""
    if not data_exists(data):
        raise not_there(data, WHAT_DATA_MAY_BE)


def data_exists(data: Path) -> bool:
    """Whether DATA is there; `hf:...` is asked only when it is read."""
    return str(data).startswith(ADDRESS) or data.exists()


def data_address(data: Path) -> str:
    """What finds DATA again from any working directory: the absolute path, or `hf:...` as it stands."""
    if not str(data).startswith(ADDRESS):
        return str(data.absolute())
    local = Path(str(data).removeprefix(ADDRESS))
    return f"{ADDRESS}{local.absolute()}" if local.exists() else str(data)


def data_name(data: Path) -> str:
    """A short name for DATA: the folder's, the file's without its suffix, or the NAME of hf:ORG/NAME."""
    if str(data).startswith(ADDRESS):
        return Path(str(data).removeprefix(ADDRESS)).name
    return data.resolve().name if data.is_dir() else data.stem


def _with_groups(items: list[Item], pattern: str) -> list[Item]:
    """The items with the first group of `pattern`, searched in their names, as their group (`--group-by`)."""
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise DhoxError(f"--group-by {pattern!r} is no regular expression ({err}).", "Mend it.") from err
    if not compiled.groups:
        raise DhoxError(f"--group-by {pattern!r} has no group.", "Put what names the group in brackets: '(cam\\d+)_'.")
    found = [(item, compiled.search(item.name)) for item in items]
    outside = [item.name for item, match in found if match is None or not match[1]]
    if outside:
        raise DhoxError(
            f"--group-by {pattern!r} matches nothing in {len(outside)} image names: {shorten(outside)}.",
            "Write a pattern that gives every image its group.",
        )
    return [replace(item, group=match[1]) for item, match in found if match is not None]


def _check_groups(splits: Splits) -> None:
    """Refuse a group (camera, recording) that stands in more than one of train (or unlabelled), val and test."""
    home: dict[str, str] = {}
    for split, items in splits.items():
        side = "train" if split == "unlabelled" else split
        for item in items:
            if item.group is not None and home.setdefault(item.group, side) != side:
                raise DhoxError(
                    f"Group {item.group!r} stands in {home[item.group]} and in {side}, so {side} would measure memory.",
                    "Keep each group in one split.",
                )


def own_classes(data: Path) -> list[tuple[str, str]] | None:
    """The class list that DATA itself gives, (label, prompt name) in its own order; None where it gives none."""
    if _is_hf(data):
        return hf_classes(data)
    return coop_classes(data) if data.is_dir() and is_coop(data) else None


def class_names(
    splits: Splits, class_file: Path | None, own: list[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """(label, prompt name) of every class, in index order: `class_file`, else `own`, else train's labels.

    `own`: DATA's own list (see `own_classes`). train's labels stand in code-point order. A line of `class_file` is a
    label, or a label and its prompt name with a tab or comma between. The default prompt name is the label with `_` as
    space. Raises DhoxError for fewer than two classes, repeats, labels outside, and one name in two spellings.
    """
    found = {item.label for item in splits["train"] if item.label is not None}
    if class_file is not None:
        classes = read_class_file(class_file)
    elif own is not None:
        classes = own
    else:
        classes = [(label, label.replace("_", " ")) for label in sorted(found)]
    labels = [label for label, _ in classes]
    listed = str(class_file) if class_file is not None else "train" if own is None else "the data set's own list"
    of_splits = {split: {item.label for item in splits[split]} for split in ("train", "val", "test")}
    check_spellings({listed: labels, **of_splits})
    known = {None, *labels}
    for split in ("train", "val", "test"):
        outside = sorted({str(item.label) for item in splits[split] if item.label not in known})
        if outside:
            origin = str(class_file) if class_file is not None else "the training labels" if own is None else "its own"
            raise DhoxError(
                f"{split} has labels outside the class list ({origin}): {shorten(outside)}.",
                "Rename or remove them, or add them to the list.",
            )
    if len(classes) < 2:
        raise DhoxError(
            f"A classifier needs at least two classes, found: {shorten(labels)}.",
            f"Name them with --classes, or: {WHAT_DATA_MAY_BE}",
        )
    return classes


def read_class_file(class_file: Path) -> list[tuple[str, str]]:
    """Read `--classes FILE`."""
    if not class_file.exists():
        raise not_there(class_file, "Write it: one class on each line.", "The class list")
    classes = _class_lines(class_file, "class list")
    repeated = sorted(label for label, count in Counter(label for label, _ in classes).items() if count > 1)
    if repeated:
        raise DhoxError(f"{class_file} lists a class twice: {shorten(repeated)}.", "Keep one line for each.")
    return classes


def read_prompt_file(prompt_file: Path, labels: list[str]) -> dict[str, list[str]]:
    """Read `--prompts FILE`: label -> other prompt names to try, in the file's order; a class may have several lines.

    Raises DhoxError for a file that cannot be read or holds none, and for a class outside `labels`.
    """
    if not prompt_file.exists():
        raise not_there(prompt_file, "Write it: a class, a tab and a prompt name on each line.", "The list of prompts")
    lines = _class_lines(prompt_file, "list of prompts")
    outside = sorted({label for label, _ in lines} - set(labels))
    if outside:
        raise DhoxError(
            f"{prompt_file} has prompts for classes that are not in the class list: {shorten(outside)}.",
            f"The classes are: {shorten(labels)}.",
        )
    if not lines:
        raise DhoxError(f"The list of prompts {prompt_file} is empty.", "Write a class, a tab and a prompt name.")
    found: dict[str, list[str]] = {}
    for label, prompt in dict.fromkeys(lines):
        found.setdefault(label, []).append(prompt)
    return found


def _class_lines(file: Path, what: str) -> list[tuple[str, str]]:
    """(label, prompt name) of each line; the default prompt name is the label with `_` as space."""
    try:
        text = regular(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DhoxError(f"The {what} {file} cannot be read ({err}).", "Check the path.") from err
    lines = []
    for line in filter(None, map(str.strip, text.splitlines())):
        label, _, prompt = line.partition("\t" if "\t" in line else ",")
        lines.append((label.strip(), prompt.strip() or label.strip().replace("_", " ")))
    return lines


def listed_labels(class_file: Path | None) -> list[str] | None:
    """The labels of `--classes FILE` in index order, None without a file: what `read_dataset` takes as `labels`."""
    return None if class_file is None else [label for label, _ in read_class_file(class_file)]


def check_labels(items: list[Item], labels: list[str]) -> None:
    """Raise DhoxError where items have labels that are none of `labels`, those that a student was trained with."""
    found = {item.label for item in items if item.label is not None}
    new, gone = sorted(found - set(labels)), sorted(set(labels) - found)
    if new:
        check_spellings({"the training": labels, "these images": new})
        raise DhoxError(
            f"The classes of these images are not those of the training. New: {shorten(new)}. "
            f"Missing: {shorten(gone) if gone else 'none'}.",
            "Name the classes as in the training, or give that data.",
        )


def class_numbers(items: list[Item], labels: list[str]) -> np.ndarray:
    """Class numbers of labelled items, int64 [N]; `labels` in index order. Raises DhoxError for labels outside."""
    check_labels(items, labels)
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[str(item.label)] for item in items], np.int64)

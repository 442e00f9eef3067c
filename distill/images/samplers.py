"""Which images of train are labelled: dhox's own draw, and the DHO authors' two, reproduced image by image.

The authors' (github.com/erjui/DHO at 846de75) read a dataset in its own order, so theirs depend on that order: the
order of a split file, manifest or table, and the sorted paths of a folder. They ignore `--split-seed`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from math import ceil, floor

import numpy as np

from dhox.data.dataset import Item, shorten
from dhox.errors import DhoxError

FEW_SHOT_SEED = 1
PERCENT_SEED = 13


def draw_labelled(
    train: list[Item],
    labels: list[str],
    shots: int | None,
    label_fraction: float | None,
    generator: np.random.Generator,
) -> list[Item]:
    """dhox's draw: per class `shots` images, or `label_fraction` of them (at least one), or all.

    Raises DhoxError for classes without a labelled image and for more shots than images.
    """
    by_class = _images_of_classes(train, labels)
    if shots is not None:
        short = [f"{label} ({len(by_class[label])})" for label in labels if len(by_class[label]) < shots]
        if short:
            raise DhoxError(
                f"--shots {shots} asks for more labelled images than these classes have: {shorten(short)}.",
                "Lower --shots or add images.",
            )
    labelled = []
    for label in labels:
        items = by_class[label]
        wanted = len(items)
        if shots is not None:
            wanted = shots
        elif label_fraction is not None:
            wanted = max(1, round(label_fraction * len(items)))
        labelled += [items[i] for i in sorted(generator.permutation(len(items))[:wanted])]
    return labelled


def draw_few_shot_reference(train: list[Item], labels: list[str], shots: int) -> list[Item]:
    """The authors' few-shot draw (datasets/utils.py, datasets/imagenet.py): `shots` images of every class.

    One generator, Python's `random` with seed 1; classes in the order in which they first appear in train; without
    replacement, and with replacement where a class has fewer images than `shots`, so that an image may stand twice.
    """
    by_class = _images_of_classes(_in_own_order(train), labels)
    generator = random.Random(FEW_SHOT_SEED)
    labelled = []
    for items in by_class.values():
        enough = len(items) >= shots
        labelled += generator.sample(items, shots) if enough else generator.choices(items, k=shots)
    return labelled


def draw_percent_reference(train: list[Item], labels: list[str], share: float) -> list[Item]:
    """The authors' balanced draw of a share of the labels (datasets/imagenet_percent.py): `balanced_counts` of each.

    numpy's legacy generator with seed 13; classes in index order, without replacement; all images where share is 1.
    """
    by_class = _images_of_classes(_in_own_order(train), labels)
    if share >= 1:
        return [item for label in labels for item in by_class[label]]
    counts = balanced_counts([len(by_class[label]) for label in labels], share)
    generator = np.random.RandomState(PERCENT_SEED)
    labelled = []
    for label, count in zip(labels, counts, strict=True):
        chosen = generator.choice(len(by_class[label]), count, replace=False)
        labelled += [by_class[label][i] for i in chosen]
    return labelled


def balanced_counts(sizes: list[int], share: float) -> list[int]:
    """Labelled images per class, as equal as class sizes allow, at least `share` of all images together.

    Begins one below the equal part of each class, rounds it (`round_in_turn`), and raises every class by 1/C until the
    sum reaches `share` of the total. The order of the floating-point operations is the authors', since the rounding
    hangs on it: 1 % of ImageNet gives 13 for every class, 10 % gives 128 for 714 classes and 129 for 286.
    """
    most = np.asarray(sizes, np.float64)
    total = sum(sizes)
    wanted = np.maximum(np.minimum((total / len(sizes)) * share - 1.0, most), 1.0)
    counts = np.minimum(round_in_turn(wanted), most)
    while counts.sum() < total * share:
        wanted = np.minimum(wanted + 1 / len(sizes), most)
        counts = np.minimum(round_in_turn(wanted), most)
    return [int(count) for count in counts]


def round_in_turn(values: np.ndarray) -> np.ndarray:
    """Round each value up where the running sum's fraction exceeds one half, else down (the authors' rounding)."""
    running, rounded = 0.0, []
    for value in values.tolist():
        running += value
        rounded.append(ceil(value) if running - running // 1 > 0.5 else floor(value))
    return np.asarray(rounded, np.float64)


def _in_own_order(train: list[Item]) -> list[Item]:
    """The images in DATA's own order: by row where DATA has rows (of one file after the other), else by name."""

    def place(item: Item) -> tuple[str, int, str]:
        return (item.file if item.column else "", -1 if item.row is None else item.row, item.name)

    return sorted(train, key=place)


def _images_of_classes(train: list[Item], labels: list[str]) -> dict[str, list[Item]]:
    """label -> its images, classes in the order of their first image. Raises DhoxError for classes without one."""
    by_class: dict[str, list[Item]] = defaultdict(list)
    for item in train:
        by_class[str(item.label)].append(item)
    empty = [label for label in labels if label not in by_class]
    if empty:
        raise DhoxError(
            f"Classes without a labelled training image: {shorten(empty)}.", "Add images or drop the class."
        )
    return by_class

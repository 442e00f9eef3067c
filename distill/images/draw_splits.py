"""Validation and test images drawn from train, where DATA has none: the same ones each time, whatever is added."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping

from dhox.artefacts.run_directory import SPLITS_FILE
from dhox.data.dataset import Item, Splits
from dhox.distill.options import Labels
from dhox.errors import UsageError
from dhox.evidence.statistics import wilson_interval


def draw_splits(splits: Splits, content: Mapping[str, Hashable], options: Labels) -> Splits:
    """The splits with `val_fraction` and `test_fraction` of each class of train as val and test.

    `content`: name -> content hash, which decides: copies stay together, and an image never changes its place because
    of another one. Of a class with fewer than three different images none is taken, else at least one for each fraction
    asked for. Where images have groups, whole groups are drawn over all classes. Raises UsageError for a split that
    DATA has itself.
    """
    asked = {"test": options.test_fraction, "val": options.val_fraction}
    fractions = {split: fraction for split, fraction in asked.items() if fraction}
    for split in fractions:
        if splits[split]:
            raise UsageError(f"DATA has a split {split} of its own.", f"Leave --{split}-fraction out.")
    if not fractions:
        return splits
    drawn: Splits = splits | {split: [] for split in ("train", *fractions)}
    for units in strata(splits["train"], content):
        for split, items in deal(units, fractions):
            drawn[split] += items
    return {split: sorted(items, key=lambda item: item.name) for split, items in drawn.items()}


def notes_on_splits(splits: Splits, options: Labels) -> list[str]:
    """What was taken from train, where the run keeps the splits, and how much so few test images can say."""
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    drawn = [f"{len(splits[split])} for {split}" for split, share in fractions.items() if share]
    notes = []
    if drawn:
        notes.append(f"DATA's train was divided by content, {' and '.join(drawn)}: {SPLITS_FILE} lists every image")
    n = len(splits["test"])
    if options.test_fraction and n:
        right = round(0.75 * n)
        low, high = (round(100 * end) for end in wilson_interval(right, n))
        notes.append(f"with {n} test images, {right} right are {100 * right / n:.0f} % ({low}-{high})")
    if options.labels is not None and (options.test_fraction or options.val_fraction):
        notes.append(
            "what is drawn from chosen labels is no random sample of the images: classes that are rare count more"
        )
    return notes


Units = list[list[Item]]  # images that stay together, in the order in which they are drawn


def strata(train: list[Item], content: Mapping[str, Hashable]) -> list[Units]:
    """What is dealt out separately: each class, or all of it where there are groups."""
    grouped = any(item.group is not None for item in train)
    strata: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in train:
        unit = item.group or ""
        if not unit:
            known = content[item.name]
            unit = known.hex() if isinstance(known, bytes) else str(known)
        order = hashlib.sha256(unit.encode()).hexdigest()
        strata["" if grouped else str(item.label)][order].append(item)
    return [[items for _, items in sorted(units.items())] for _, units in sorted(strata.items())]


def deal(units: Units, fractions: dict[str, float]) -> list[tuple[str, list[Item]]]:
    """(split, images) of every unit: the first ones to test and val, until each has its fraction, the rest to train."""
    total = sum(map(len, units))
    dealt, waiting = [], list(units)
    for split, fraction in fractions.items():
        wanted = max(1, round(fraction * total)) if len(units) >= 3 else 0
        while wanted > 0 and len(waiting) > 1:
            first = waiting.pop(0)
            wanted -= len(first)
            dealt.append((split, first))
    return dealt + [("train", items) for items in waiting]

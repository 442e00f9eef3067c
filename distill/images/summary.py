"""What DATA holds, in a few lines: images by split and class, sizes, copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from itertools import combinations

import numpy as np

from dhox.data.dataset import Item, Splits
from dhox.data.leftovers import counted

MOST = 10  # classes that are named at each end


def data_lines(splits: Splits, content: Mapping[str, Hashable], sizes: np.ndarray) -> list[str]:
    """Lines for people. `content`: name -> content hash; `sizes`: width and height of the images in pixels [N, 2]."""
    held = {split: items for split, items in splits.items() if items}
    lines = [f"{split}: {split_line(items)}" for split, items in held.items()]
    if len(sizes):
        lines.append(f"Sizes: {size_line(sizes)}.")
    hashes = {split: {content[item.name] for item in items} for split, items in held.items()}
    for one, other in combinations(hashes, 2):
        if both := len(hashes[one] & hashes[other]):
            lines.append(f"Copies: {counted(both, 'image')} of {one} {'is' if both == 1 else 'are'} in {other} too.")
    return lines


def split_line(items: list[Item]) -> str:
    """How many images a split has, and of which classes."""
    counts = Counter(item.label for item in items if item.label is not None)
    total = counted(len(items), "image")
    if not counts:
        return f"{total}."
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    if len({count for _, count in ordered}) == 1:
        return f"{total}, {ordered[0][1]:,} of each of {counted(len(ordered), 'class')}."
    if len(ordered) <= 2 * MOST:
        return f"{total} of {counted(len(ordered), 'class')}: {named(ordered)}."
    return (
        f"{total} of {counted(len(ordered), 'class')}; the largest: {named(ordered[:MOST])}; "
        f"the smallest: {named(ordered[-MOST:])}."
    )


def named(counts: list[tuple[str, int]]) -> str:
    """`12 bag, 9 dress`."""
    return ", ".join(f"{count:,} {label}" for label, count in counts)


def size_line(sizes: np.ndarray) -> str:
    """The smallest, middle and largest image by its area."""
    ordered = sizes[np.argsort(sizes.prod(1), kind="stable")]
    small, middle, large = (f"{width} x {height}" for width, height in ordered[[0, len(ordered) // 2, -1]].tolist())
    return f"all {small} pixels" if (sizes == sizes[0]).all() else f"{small} to {large} pixels, half below {middle}"

"""Validation and test images drawn from train: by content, class by class, the same each time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.data.dataset import Item, Splits
from dhox.distill.images.draw_splits import draw_splits
from dhox.distill.images.summary import data_lines
from dhox.distill.options import Labels
from dhox.errors import UsageError


def train_of(**counts: int) -> Splits:
    items = [Item("", f"{label}/{i:03d}", label) for label, n in counts.items() for i in range(n)]
    return {"train": items, "unlabelled": [Item("", "u/1")], "val": [], "test": []}


def content_of(splits: Splits) -> dict[str, bytes]:
    return {item.name: item.name.encode() for items in splits.values() for item in items}


def names(items: list[Item]) -> set[str]:
    return {item.name for item in items}


@given(a=st.integers(1, 60), b=st.integers(3, 60), val=st.floats(0, 0.4), test=st.floats(0.01, 0.4))
def test_every_image_stands_once_and_every_class_has_its_share(a: int, b: int, val: float, test: float) -> None:
    splits = train_of(a=a, b=b)
    drawn = draw_splits(splits, content_of(splits), Labels(val_fraction=val, test_fraction=test))
    assert sum(map(len, drawn.values())) == a + b + 1
    assert set().union(*map(names, drawn.values())) == names(splits["train"]) | {"u/1"}
    for label, n in (("a", a), ("b", b)):
        counts = {split: sum(item.label == label for item in drawn[split]) for split in ("train", "val", "test")}
        assert counts["train"] >= 1
        if n < 3:
            assert counts["train"] == n
        else:
            assert counts["test"] == max(1, round(test * n))
            assert counts["val"] == (min(max(1, round(val * n)), n - counts["test"] - 1) if val else 0)


def test_another_image_moves_none() -> None:
    options = Labels(val_fraction=0.2, test_fraction=0.2)
    small, large = train_of(a=40), train_of(a=41)
    before, after = (draw_splits(splits, content_of(splits), options) for splits in (small, large))
    moved = sum(len(names(before[split]) - names(after[split])) for split in ("train", "val", "test"))
    assert moved <= 2  # at the two borders


def test_copies_and_groups_stay_together() -> None:
    splits = train_of(a=30, b=30)
    content = {item.name: item.name[-3:-1].encode() for item in splits["train"]}  # ten copies of each
    drawn = draw_splits(splits, content, Labels(test_fraction=0.3))
    assert not {content[item.name] for item in drawn["test"]} & {
        content[item.name] for item in drawn["train"] if item.label == drawn["test"][0].label
    }
    grouped = splits | {"train": [replace(item, group=f"camera{int(item.name[-3:]) // 6}") for item in splits["train"]]}
    drawn = draw_splits(grouped, content_of(splits), Labels(val_fraction=0.2, test_fraction=0.2))
    homes = Counter(group for split in ("train", "val", "test") for group in {item.group for item in drawn[split]})
    assert set(homes.values()) == {1}
    assert len(drawn["test"]) == len(drawn["val"]) == 12


def test_nothing_asked_changes_nothing_and_own_splits_stay() -> None:
    splits = train_of(a=5)
    assert draw_splits(splits, content_of(splits), Labels()) == splits
    own = splits | {"test": [Item("", "t/1", "a")]}
    with refuses("test", at="distill.images.draw_splits", fix="--test-fraction", kind=UsageError):
        draw_splits(own, content_of(own), Labels(test_fraction=0.1))


def test_the_summary_names_splits_classes_sizes_and_copies() -> None:
    splits = train_of(a=3, b=1) | {"test": [Item("", "t/1", "b"), Item("", "t/2", "b")]}
    content = content_of(splits) | {"t/1": b"a/000"}
    sizes = np.array([[9, 9], [20, 10], [400, 300], [8, 8], [10, 10], [10, 10], [10, 10]])
    assert data_lines(splits, content, sizes) == [
        "train: 4 images of 2 classes: 3 a, 1 b.",
        "unlabelled: 1 image.",
        "test: 2 images, 2 of each of 1 class.",
        "Sizes: 8 x 8 to 400 x 300 pixels, half below 10 x 10.",
        "Copies: 1 image of train is in test too.",
    ]
    many = train_of(**{f"c{i:02d}": i + 1 for i in range(30)})
    line = data_lines(many, content_of(many), np.array([[5, 5]]))[0]
    assert line.startswith("train: 465 images of 30 classes; the largest: 30 c29, 29 c28")
    assert line.endswith("2 c01, 1 c00.")


@pytest.mark.parametrize("fraction", [-0.1, 0.9])
def test_fractions_have_bounds(fraction: float) -> None:
    from dhox.distill.options import DistillOptions
    from dhox.options.declare import build

    with pytest.raises(UsageError, match="test-fraction"):
        build(DistillOptions, test_fraction=fraction)

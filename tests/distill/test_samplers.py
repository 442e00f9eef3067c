"""The authors' draws: ImageNet's counts, and equality with a plain evaluation of what they describe."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.data.dataset import Item
from dhox.distill.images.samplers import balanced_counts, draw_few_shot_reference, draw_percent_reference, round_in_turn
from dhox.distill.images.sets import choose_sets
from dhox.distill.options import Labels
from dhox.errors import UsageError

IMAGES = 1_281_167


def imagenet_sizes(seed: int) -> list[int]:
    """1,000 class sizes as ImageNet's: 732 to 1,300, most of them 1,300, 1,281,167 images in all."""
    sizes = np.full(1000, 1300)
    generator = np.random.default_rng(seed)
    small = generator.permutation(1000)[:105]
    sizes[small] = generator.integers(1000, 1300, 105)
    sizes[small[0]] = 732
    while sizes.sum() != IMAGES:
        one = generator.choice(small[1:])
        sizes[one] = np.clip(sizes[one] + np.sign(IMAGES - sizes.sum()), 732, 1299)
    return sizes.tolist()


def train(sizes: dict[str, int], rows: bool = False) -> list[Item]:
    items = [Item(Path(), f"{label}/{i:04d}", label) for label, n in sizes.items() for i in range(n)]
    if not rows:
        return items
    order = list(range(len(items)))
    random.Random(5).shuffle(order)
    return [Item(i.path, i.name, i.label, row=row) for i, row in zip(items, order, strict=True)]


@pytest.mark.parametrize("seed", [0, 1])
def test_imagenet_counts(seed: int) -> None:
    sizes = imagenet_sizes(seed)
    assert (sum(sizes), min(sizes), max(sizes)) == (IMAGES, 732, 1300)
    assert Counter(balanced_counts(sizes, 0.01)) == {13: 1000}
    ten = balanced_counts(sizes, 0.1)
    assert Counter(ten) == {128: 714, 129: 286}
    assert sum(ten) == 128_286


def plain_percent(sizes: list[int], percent: float) -> list[list[int]]:
    """Image numbers per class, by the description: class sizes, cascade of roundings, numpy's global generator."""
    share = percent / 100.0
    np.random.seed(13)
    y = np.repeat(np.arange(len(sizes)), sizes)
    per = [max(min(len(y) / len(sizes) * share - 1.0, n), 1.0) for n in sizes]

    def cascade() -> list[int]:
        total, out = 0.0, []
        for n, a in zip(sizes, per, strict=True):
            total += a
            out.append(min(math.ceil(a) if total - math.floor(total) > 0.5 else math.floor(a), n))
        return out

    counts = cascade()
    while sum(counts) < len(y) * share:
        per = [min(a + 1 / len(sizes), n) for n, a in zip(sizes, per, strict=True)]
        counts = cascade()
    starts = np.cumsum([0, *sizes])
    return [
        (np.random.choice(np.where(y == c)[0], counts[c], replace=False) - starts[c]).tolist()
        for c in range(len(sizes))
    ]


@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=8), percent=st.sampled_from([1.0, 5.0, 10.0, 33.0, 70.0])
)
def test_percent_reference_equals_a_plain_evaluation(sizes: list[int], percent: float) -> None:
    labels = [f"c{i}" for i in range(len(sizes))]
    drawn = draw_percent_reference(train(dict(zip(labels, sizes, strict=True))), labels, percent / 100)
    wanted = plain_percent(sizes, percent)
    assert [item.name for item in drawn] == [
        f"{label}/{i:04d}" for label, of_class in zip(labels, wanted, strict=True) for i in of_class
    ]
    assert len(drawn) >= sum(sizes) * percent / 100 or len(drawn) == sum(sizes)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), share=st.floats(0.001, 0.999))
def test_balanced_counts_reach_the_share_within_the_classes(sizes: list[int], share: float) -> None:
    counts = balanced_counts(sizes, share)
    assert sum(counts) >= sum(sizes) * share
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_round_in_turn_carries_the_fraction_along() -> None:
    assert round_in_turn(np.array([0.5, 0.1, 0.3, 2.0])).tolist() == [0, 1, 1, 2]
    assert round_in_turn(np.full(4, 0.25)).tolist() == [0, 0, 1, 0]


@given(shots=st.integers(1, 12), rows=st.booleans())
def test_few_shot_reference_equals_a_plain_evaluation(shots: int, rows: bool) -> None:
    items = train({"b": 9, "a": 5, "c": 12}, rows)
    listed = sorted(items, key=lambda item: item.row or 0) if rows else sorted(items, key=lambda item: item.name)
    random.seed(1)
    wanted = []
    for label in dict.fromkeys(item.label for item in listed):
        of_class = [item for item in listed if item.label == label]
        wanted += random.sample(of_class, shots) if len(of_class) >= shots else random.choices(of_class, k=shots)
    drawn = draw_few_shot_reference(items[::-1], ["a", "b", "c"], shots)
    assert drawn == wanted
    assert Counter(item.label for item in drawn) == dict.fromkeys("abc", shots)


def splits(n_val: int = 6) -> dict[str, list[Item]]:
    return {
        "train": train({"a": 30, "b": 20}), "unlabelled": [], "test": [Item(Path(), "test/1", "a")],
        "val": [Item(Path(), f"val/{i}", "ab"[i % 2]) for i in range(n_val)],
    }  # fmt: skip


def contents(data: dict[str, list[Item]]) -> dict[str, str]:
    return {item.name: item.name for items in data.values() for item in items}


def test_reference_samplers_do_not_hang_on_seeds_and_stay_out_of_u() -> None:
    data = splits()
    for sampler, amount in (("few-shot-reference", {"shots": 4}), ("percent-reference", {"label_fraction": 0.1})):
        first, second = (
            choose_sets(data, ["a", "b"], contents(data), Labels(label_sampler=sampler, split_seed=seed, **amount))  # type: ignore[arg-type]
            for seed in (0, 1)
        )
        assert first == second
        names = {item.name for item in first.labelled}
        assert not names & {item.name for item in first.unlabelled}
        assert len(names) + len(first.unlabelled) == 50


def test_reference_draws_reach_copies_and_drop_them_afterwards() -> None:
    data = splits()
    content = contents(data)
    drawn = draw_few_shot_reference(data["train"], ["a", "b"], 4)
    content[drawn[0].name] = content["test/1"]
    sets = choose_sets(data, ["a", "b"], content, Labels(shots=4, label_sampler="few-shot-reference"))
    assert sets.labelled == drawn[1:]
    assert any("8 images drawn as the authors draw them, 0 of them repeats; 1 that are copies" in n for n in sets.notes)
    few = {**data, "train": train({"a": 3, "b": 20})}
    sets = choose_sets(few, ["a", "b"], contents(few), Labels(shots=4, label_sampler="few-shot-reference"))
    assert Counter(item.label for item in sets.labelled) == {"a": 4, "b": 4}
    assert any("1 of them repeats" in note or "2 of them repeats" in note for note in sets.notes)


def test_reference_samplers_need_their_amount() -> None:
    data = splits()
    with refuses(
        "--label-sampler few-shot-reference", at="distill.options.check_labels", fix="--shots", kind=UsageError
    ):
        choose_sets(data, ["a", "b"], contents(data), Labels(label_sampler="few-shot-reference", label_fraction=0.1))
    with refuses(
        "--label-sampler percent-reference", at="distill.options.check_labels", fix="--label-fraction", kind=UsageError
    ):
        choose_sets(data, ["a", "b"], contents(data), Labels(label_sampler="percent-reference", shots=1))
    for sampler, amount in (("few-shot-reference", {"shots": 4}), ("percent-reference", {"label_fraction": 0.1})):
        with refuses("c", at="distill.images.samplers._images_of_classes"):
            choose_sets(data, ["a", "b", "c"], contents(data), Labels(label_sampler=sampler, **amount))  # type: ignore[arg-type]
    assert len(draw_percent_reference(data["train"], ["a", "b"], 1.0)) == 50


def test_held_out_tuning_leaves_val_out_altogether() -> None:
    data = splits()
    content = contents(data)
    content["a/0001"] = content["val/0"]
    sets = choose_sets(data, ["a", "b"], content, Labels(shots=10), tune_on="held-out")
    assert (sets.selection, len(sets.validation), len(sets.labelled)) == ("held-out", 4, 16)
    used = {item.name for part in (sets.labelled, sets.unlabelled, sets.validation, sets.test) for item in part}
    assert not {name for name in used if name.startswith("val/")}
    assert "a/0001" not in used
    assert any("--tune-on held-out: the 6 images of val are left out" in note for note in sets.notes)
    assert any("--tune-on held-out: 4 of the labelled images are held out" in note for note in sets.notes)
    few = choose_sets(data, ["a", "b"], content, Labels(shots=4), tune_on="held-out")
    assert (few.selection, few.validation, len(few.labelled)) == ("none", [], 8)


def test_tuning_on_nothing_keeps_every_label_for_training() -> None:
    for data in (splits(), splits(0)):
        sets = choose_sets(data, ["a", "b"], contents(data), Labels(shots=10), tune_on="none")
        assert (sets.selection, sets.validation, len(sets.labelled), len(sets.unlabelled)) == ("none", [], 20, 30)
        assert any("--tune-on none" in note for note in sets.notes)
    assert choose_sets(splits(), ["a", "b"], contents(splits()), Labels(shots=10)).selection == "val"

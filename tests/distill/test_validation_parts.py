from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.logits import Logits
from dhox.distill.results.validation_parts import judging, selecting_half


def validation(n: int, groups: list[str] | None = None) -> Logits:
    nothing = np.zeros((n, 2), np.float32)
    return Logits(
        ce_logits=nothing, kd_logits=nothing, labels=np.zeros(n, np.int64),
        names=np.array([f"val/{i}.png" for i in range(n)], np.str_), groups=None if groups is None else np.array(groups),
    )  # fmt: skip


def test_halves_from_a_thousand_images_by_path_alone() -> None:
    assert selecting_half(validation(999)).all()
    val = validation(1000)
    half = selecting_half(val)
    assert 400 < half.sum() < 600
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(selecting_half(val.of(order)), half[order])


def test_every_image_judges_once_and_never_where_it_chose() -> None:
    for n, images in ((300, "cross-fitted"), (1000, "gate-half")):
        found = judging(validation(n), 50)
        assert found is not None
        assert found.images == images
        assert not any((choose & judge).any() for choose, judge in found.splits)
        times = sum(judge.astype(int) for _, judge in found.splits)
        assert (times == (1 if images == "cross-fitted" else ~selecting_half(validation(n)))).all()


@given(st.integers(1, 40), st.integers(50, 1500), st.integers(0, 5))
def test_no_group_stands_on_both_sides(n_groups: int, n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = np.array([f"camera {i}" if i else "" for i in random.integers(0, n_groups, n)])
    val = validation(n, groups.tolist())
    found = judging(val, 1)
    if n_groups == 1:  # every image alone
        assert found is not None
        return
    if found is None:
        assert len(set(groups)) == 1
        return
    for choose, judge in found.splits:
        assert not set(groups[choose]) & (set(groups[judge]) - {""})
    if found.images == "gate-half" and n_groups >= 10:
        assert 0.35 < selecting_half(val).mean() < 0.65


def test_one_group_leaves_no_independent_image() -> None:
    assert judging(validation(1200, ["camera"] * 1200), 1) is None
    two = judging(validation(1200, ["a"] * 800 + ["b"] * 400), 50)
    assert two is not None
    assert [(int(choose.sum()), int(judge.sum())) for choose, judge in two.splits] == [(800, 400)]


@pytest.mark.parametrize(("n", "there"), [(50, False), (80, True)])
def test_four_folds_must_hold_enough_to_choose(n: int, there: bool) -> None:
    assert (judging(validation(n), 50) is not None) is there

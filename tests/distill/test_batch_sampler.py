from __future__ import annotations

from math import cos, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhox.distill.training.batch_sampler import LABELLED, BatchSampler
from dhox.distill.training.steps import passes_over, steps_per_epoch
from dhox.distill.training.train import learning_rate_at


def order(**changes: object) -> BatchSampler:
    plain = {"labels": np.arange(6) % 3, "n_unlabelled": 20, "batch_labelled": 4, "batch_unlabelled": 10, "views": 3}
    return BatchSampler(**{**plain, "seed": 0, **changes})  # type: ignore[arg-type]


def test_batches_are_labelled_then_unlabelled_and_every_pass_is_whole() -> None:
    batches = [order().batch(step) for step in range(6)]
    assert all(len(numbers) == len(views) == 14 for numbers, views in batches)
    labelled = np.concatenate([numbers[:4] for numbers, _ in batches])
    unlabelled = np.concatenate([numbers[4:] for numbers, _ in batches])
    assert all(set(labelled[i : i + 6]) == set(range(6)) for i in range(0, 24, 6))
    assert all(set(unlabelled[i : i + 20]) == set(range(6, 26)) for i in range(0, 60, 20))
    assert len({tuple(unlabelled[i : i + 20]) for i in range(0, 60, 20)}) == 3
    assert {view for _, views in batches for view in views} == {0, 1, 2}


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    later = order()
    assert all((later.batch(5)[i] == order().batch(5)[i]).all() for i in (0, 1))
    assert not (order(seed=1).batch(5)[0] == order().batch(5)[0]).all()


@given(step=st.integers(0, 100), world=st.sampled_from([1, 2, 4]))
def test_processes_share_the_global_batch_without_duplicates(step: int, world: int) -> None:
    whole = order(batch_unlabelled=8)
    numbers, views = whole.batch(step)
    parts = [whole.batch(step, rank, world) for rank in range(world)]
    together = sorted((int(n), int(v)) for part in parts for n, v in zip(*part, strict=True))
    assert together == sorted((int(n), int(v)) for n, v in zip(numbers, views, strict=True))
    assert all((part[0] < 6).sum() == 4 // world for part in parts)


def test_balanced_passes_hold_every_class_equally_often() -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2])
    balanced = order(labels=labels, batch_labelled=21, n_unlabelled=0, batch_unlabelled=0, balanced=True)
    for step in range(3):
        numbers, _ = balanced.batch(step)
        assert np.bincount(labels[numbers]).tolist() == [7, 7, 7]
        assert set(numbers) == set(range(10))


@given(labels=st.lists(st.integers(0, 12), min_size=1, max_size=60), turn=st.integers(0, 3))
def test_balanced_passes_are_the_draws_of_one_class_after_the_other(labels: list[int], turn: int) -> None:
    """As the plain evaluation that looks at every label for every class."""
    array, random = np.array(labels), np.random.default_rng((0, LABELLED, turn))
    most = max(labels.count(label) for label in labels)
    drawn = [np.resize(random.permutation(np.flatnonzero(array == c)), most) for c in sorted(set(labels))]
    assert (
        order(labels=array, balanced=True).one_pass(LABELLED, turn) == random.permutation(np.concatenate(drawn))
    ).all()


def test_no_labelled_and_no_unlabelled_images_are_possible() -> None:
    assert (order(labels=np.zeros(0, int), batch_labelled=0).batch(3)[0] < 20).all()
    assert len(order(n_unlabelled=0, batch_unlabelled=0).batch(3)[0]) == 4


def test_an_epoch_is_one_pass() -> None:
    assert steps_per_epoch(5840, 192) == 31
    assert steps_per_epoch(160, 64) == 3
    assert steps_per_epoch(5, 192) == 1


def test_never_more_views_than_passes() -> None:
    assert passes_over(5840, 20 * 31, 192) == 21
    assert passes_over(100, 1, 100) == 1
    assert passes_over(640, 2 * 10, 64) == 2


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_learning_rate_rises_then_falls_to_zero(schedule: str) -> None:
    rates = [learning_rate_at(step, 100, 0.1, 0.1, schedule) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_at(0, 100, 0.1, 0.0, schedule) == pytest.approx(0.1)


def test_a_cosine_without_warm_up_is_torchs() -> None:
    """So ImageNet's few-shot recipe has the rates of train_imgnet.py."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for step in range(40):
        assert learning_rate_at(step, 40, 0.1, 0.0, "cosine") == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("steps", [200, 400, 1400])
def test_the_linear_schedule_is_the_authors_one_stair_ahead_in_the_warm_up(steps: int) -> None:
    """train_others.py starts at 0 (transformers' get_linear_schedule_with_warmup): one step at the peak less in sum."""
    warm = steps // 10
    theirs = [step / warm if step < warm else (steps - step) / (steps - warm) for step in range(steps)]
    ours = [learning_rate_at(step, steps, 1.0, 0.1, "linear") for step in range(steps)]
    assert ours[: warm - 1] == pytest.approx(theirs[1:warm])
    assert ours[warm:] == pytest.approx(theirs[warm:])
    assert sum(ours) - sum(theirs) == pytest.approx(1.0)


@pytest.mark.parametrize(("epoch_steps", "larger"), [(4954, 1.067), (4504, 1.074)])
def test_the_low_shot_rates_beside_the_authors(epoch_steps: int, larger: float) -> None:
    """train_imgnet_semi.py multiplies its warm-up with a cosine from step 0 to 5,000 steps before the end."""
    steps, warm, last = 32 * epoch_steps, 5000, 32 * epoch_steps - 5000
    every = range(0, steps, 50)
    theirs = [min(0.01 + 0.99 * step / warm, 1) * 0.5 * (1 + cos(pi * step / last)) for step in every]
    ours = [learning_rate_at(step, steps, 1.0, warm / steps, "cosine") for step in every]
    assert sum(ours) / sum(theirs) == pytest.approx(larger, abs=5e-4)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.057

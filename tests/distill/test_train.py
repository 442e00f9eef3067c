from __future__ import annotations

from itertools import islice

import numpy as np

from dhox.distill.run import passes_over
from dhox.distill.train import endless, steps_per_epoch, training_batches


def test_batches_are_labelled_then_unlabelled_and_every_pass_is_whole() -> None:
    batches = list(training_batches(6, 20, 4, 10, steps=6, views=3, seed=0))
    assert len(batches) == 6
    assert all(len(batch) == 14 for batch in batches)
    labelled = [image for batch in batches for image, _ in batch[:4]]
    unlabelled = [image for batch in batches for image, _ in batch[4:]]
    assert all(set(labelled[i : i + 6]) == set(range(6)) for i in range(0, 24, 6))
    assert all(set(unlabelled[i : i + 20]) == set(range(6, 26)) for i in range(0, 60, 20))
    assert {view for batch in batches for _, view in batch} == {0, 1, 2}


def test_order_depends_on_the_seed_alone() -> None:
    def draw(seed: int) -> list[list[tuple[int, int]]]:
        return list(training_batches(5, 9, 3, 4, steps=4, views=8, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_an_epoch_is_one_pass_over_the_unlabelled_else_the_labelled_images() -> None:
    assert steps_per_epoch(160, 5840, 64, 192) == 31
    assert steps_per_epoch(160, 0, 64, 192) == 3
    assert steps_per_epoch(10, 5, 64, 192) == 1
    assert steps_per_epoch(0, 400, 64, 200) == 2


def test_never_more_views_than_passes() -> None:
    assert passes_over(5840, 20, 31, 192) == 21
    assert passes_over(100, 1, 1, 192) == 1
    assert passes_over(640, 2, 10, 64) == 2


def test_endless_reshuffles() -> None:
    numbers = list(islice(endless(3, 4, np.random.default_rng(0)), 40))
    assert all(sorted(numbers[i : i + 4]) == [3, 4, 5, 6] for i in range(0, 40, 4))
    assert len({tuple(numbers[i : i + 4]) for i in range(0, 40, 4)}) > 3

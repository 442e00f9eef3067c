from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.common import Accuracy
from dhox.evidence.statistics import (
    class_counts,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    paired_difference_lower_bound,
    percentile,
    score,
    softmax,
    wilson_interval,
)


def test_percentile_is_nearest_rank() -> None:
    samples = [15, 20, 35, 40, 50]
    assert [percentile(samples, p) for p in (0, 30, 40, 50, 99, 100)] == [15, 20, 20, 35, 50, 50]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(1, 100))
def test_percentile_bounds_its_share(samples: list[float], percent: float) -> None:
    value = percentile(samples, percent)
    assert value in samples
    assert sum(s <= value for s in samples) >= percent / 100 * len(samples) - 1e-9


def test_wilson_interval_of_known_cases() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, as scipy's binomtest gives it
    assert wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1
    assert wilson_interval(0, 0) == (0, 1)


def test_few_images_without_a_difference_prove_nothing() -> None:
    few, many = np.ones(60, bool), np.ones(600, bool)
    assert paired_difference_lower_bound(few, few) < -0.01
    assert paired_difference_lower_bound(many, many) > -0.01


def test_paired_bound_keeps_its_promise() -> None:
    """The one-sided 95 % bound lies above the truth in about 5 % of experiments (Agresti-Min: a little fewer)."""
    random = np.random.default_rng(0)
    exceed = 0
    for _ in range(2000):
        old = random.random(300) < 0.8
        flip = random.random(300)
        new = np.where(old, flip > 0.06, flip < 0.2)  # true difference 0.2 * 0.2 - 0.8 * 0.06 = -0.008
        exceed += paired_difference_lower_bound(new, old) > -0.008
    assert 0.02 < exceed / 2000 < 0.07


def test_calibration_error_of_known_cases() -> None:
    probs = np.array([[0.8, 0.2]] * 10)
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(probs, labels) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(probs, np.zeros(10, int)) == pytest.approx(0.2)


def test_softmax_and_nll_equal_torch() -> None:
    logits = np.random.default_rng(1).normal(0, 20, (50, 7)).astype(np.float32)
    labels = np.arange(50) % 7
    ours = softmax(logits)
    assert np.allclose(ours, torch.from_numpy(logits).double().softmax(-1).numpy(), atol=1e-12)
    reference = torch.nn.functional.nll_loss(
        torch.from_numpy(np.clip(ours, 1e-12, None)).log(), torch.from_numpy(labels)
    )
    assert negative_log_likelihood(ours, labels) == pytest.approx(reference.item())


def test_scores_of_known_cases() -> None:
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 0])
    assert score(predictions, labels, "accuracy") == pytest.approx(4 / 7)
    assert score(predictions, labels, "balanced") == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert score(predictions, labels, "macro-f1") == pytest.approx((6 / 9 + 2 / 4 + 0) / 3)


@given(seed=st.integers(0, 1000), n=st.integers(1, 60), classes=st.integers(1, 9))
def test_scores_equal_those_of_the_whole_confusion_matrix(seed: int, n: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, classes, (2, n))
    matrix = confusion_matrix(labels, predictions, classes)
    right, true, predicted = class_counts(labels, predictions, classes)
    assert (right == np.diag(matrix)).all()
    assert (true == matrix.sum(1)).all()
    assert (predicted == matrix.sum(0)).all()
    assert score(predictions, labels, "balanced") == (np.diag(matrix)[true > 0] / true[true > 0]).mean()
    seen = true + predicted > 0
    assert score(predictions, labels, "macro-f1") == (2 * np.diag(matrix)[seen] / (true + predicted)[seen]).mean()


def test_scores_of_a_million_classes() -> None:
    labels = np.arange(0, 1_000_000, 1000)
    for metric in ("balanced", "macro-f1"):
        assert score(labels, labels, metric) == 1
        assert score(labels + 1, labels, metric) == 0


def test_accuracy_row() -> None:
    row = Accuracy.of(np.array([True, True, False, True]))
    assert (row.n, row.correct, row.accuracy) == (4, 3, 0.75)
    assert Accuracy.of(np.zeros(0, bool)).accuracy == 0

"""Estimators and tests of `dhox drift` against numbers found by hand, and what must hold for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox.bench.drift.accuracy import estimate
from dhox.bench.drift.estimators import Cut, FieldOrder, atc, class_atc, class_weights, cut, doc, explained, with_rare
from dhox.bench.drift.sample import Answers, Reference, reference_of
from dhox.bench.drift.shift import (
    Compared,
    changed_share,
    class_test,
    confidence_test,
    find_shift,
    holm,
    largest_distance,
    likelihood_ratio,
)


def made(seed: int, n: int, shares: list[float], sure: float = 4.0, hard: float = 0.0) -> Reference:
    """Answers of a calibrated model of len(shares) classes; `hard`: noise that its confidence does not know of."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), n, p=shares)
    logits = rng.normal(0, 1, (n, len(shares)))
    logits[np.arange(n), labels] += rng.exponential(sure / 2, n)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if hard:
        wrong = rng.random(n) < hard
        labels = np.where(wrong, (labels + 1) % len(shares), labels)
    return reference_of(probs, labels)


def field_of(reference: Reference) -> Answers:
    return Answers(reference.confidence, reference.predicted, reference.classes)


def test_atc_and_doc_by_hand() -> None:
    reference = Reference(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 1]), 2, np.array([0, 0, 1, 0]))
    field = Answers(np.array([0.95, 0.64, 0.66, 0.3]), np.array([0, 1, 1, 0]), 2)
    # Three of four are right, so the cut lies between 0.6 and 0.7: two of the field answers pass it.
    assert cut(reference.confidence, reference.right, np.ones(4)) == Cut(pytest.approx(0.65), 1.0)
    assert atc(reference, FieldOrder.of(field)) == 0.5
    assert doc(reference, 0.6375) == pytest.approx(0.75 - 0.75 + 0.6375)
    # Fewer than 20 answers of a class: both share a cut.
    assert class_atc(reference, FieldOrder.of(field)).tolist() == [1.0, 1.0]


def test_a_cut_within_ties_takes_a_share_of_them() -> None:
    right = np.array([True, True, False, True])
    assert cut(np.array([1.0, 1.0, 1.0, 0.5]), right, np.ones(4)) == Cut(0.75, 1.0)
    found = cut(np.array([1.0, 1.0, 1.0, 1.0]), right, np.ones(4))
    assert found == Cut(1.0, 0.75)
    assert found.passed(np.array([0.2, 1.0, 1.0])) == 1.5
    weighted = cut(np.array([0.9, 0.5]), np.array([True, False]), np.array([1.0, 3.0]))
    assert weighted == Cut(pytest.approx(0.7), 1.0)
    assert cut(np.array([0.9, 0.5]), np.array([False, False]), np.ones(2)).passed(np.array([0.99])) == 0.0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=80))
def test_validation_itself_is_estimated_exactly(rows: list[tuple[int, int, int]]) -> None:
    confidence, predicted, labels = (np.array(column) for column in zip(*rows, strict=True))
    reference = Reference(confidence / 8, predicted, 3, labels)
    order, known = FieldOrder.of(field_of(reference)), reference.right.mean()
    assert atc(reference, order) == pytest.approx(known)
    assert class_atc(reference, order).sum() / len(reference) == pytest.approx(known)
    assert doc(reference, float(reference.confidence.mean())) == pytest.approx(known)


def test_a_class_of_twenty_answers_has_a_cut_of_its_own() -> None:
    confidence = np.concatenate([np.linspace(0.5, 0.69, 20), np.linspace(0.8, 0.99, 20)])
    predicted = np.repeat([0, 1], 20)
    labels = np.concatenate([np.zeros(20), np.tile([0, 1], 10)]).astype(int)  # all right, and half right
    reference = Reference(confidence, predicted, 2, labels)
    field = FieldOrder.of(Answers(np.array([0.6, 0.6, 0.85, 0.95]), np.array([0, 0, 1, 1]), 2))
    assert class_atc(reference, field).tolist() == [2.0, 1.0]
    fewer = reference.of(np.arange(1, 40))  # 19 answers of class 0: one cut for both, at 0.7-something
    assert class_atc(fewer, field)[0] < 2.0


def test_rare_classes_share_a_threshold() -> None:
    assert with_rare(np.array([20, 20, 400])).tolist() == [False, False, False]
    assert with_rare(np.array([19, 25, 400])).tolist() == [True, True, False]
    assert with_rare(np.array([0, 25, 19, 2, 400])).tolist() == [True, False, True, True, False]
    assert with_rare(np.array([3, 0, 0, 77])).tolist() == [True, True, True, True]


def test_class_weights_find_other_shares() -> None:
    reference = made(0, 4000, [0.5, 0.3, 0.2])
    field = made(1, 4000, [0.2, 0.2, 0.6])
    weights = class_weights(reference, field.counts)
    assert weights is not None
    true = np.bincount(reference.labels) / len(reference)
    assert weights * true == pytest.approx([0.2, 0.2, 0.6], abs=0.04)
    assert explained(reference, weights, field_of(field)) > 0.05
    vague = made(2, 4000, [0.2, 0.2, 0.6], sure=1.0)
    assert explained(reference, weights, field_of(vague)) < 1e-6
    few = reference.of(np.flatnonzero(reference.labels != 2)[:60])
    assert class_weights(few, field.counts) is None


def test_statistics_by_hand() -> None:
    old, new = np.array([[6, 2, 2]]), np.array([[2, 2, 1]])
    assert largest_distance(old, new) == pytest.approx([0.2])
    assert changed_share(old, new) == pytest.approx([0.2])
    expected = [(8 * 10 / 15), (4 * 10 / 15), (3 * 10 / 15), (8 * 5 / 15), (4 * 5 / 15), 1]
    counts = [6, 2, 2, 2, 2, 1]
    assert likelihood_ratio(old, new) == pytest.approx(
        [2 * sum(n * np.log(n / e) for n, e in zip(counts, expected, strict=True))]
    )
    assert likelihood_ratio(np.array([[5, 0]]), np.array([[5, 0]])) == pytest.approx([0.0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(ps: list[float]) -> None:
    found = holm(ps)
    assert all(p <= one <= min(1.0, len(ps) * p) + 1e-12 for p, one in zip(ps, found, strict=True))
    assert np.argsort(ps, kind="stable").tolist() == sorted(range(len(ps)), key=lambda i: (found[i], ps[i], i))


def test_ties_and_many_values_are_tested() -> None:
    rng = np.random.default_rng(0)
    same = Answers(np.ones(50), np.zeros(50, int), 2)
    assert confidence_test(same, same, rng) == Compared(0.0, 1.0, 0.0)
    assert class_test(same, same, rng).p == 1.0
    low, high = (Answers(np.linspace(a, a + 0.5, 400), np.zeros(400, int), 2) for a in (0.0, 0.5))
    assert confidence_test(low, high, rng) == Compared(
        pytest.approx(1.0, abs=0.01), 1 / 2000, pytest.approx(0.06, abs=0.02)
    )


@pytest.mark.slow
def test_false_alarms_are_few_and_a_shift_is_found() -> None:
    alarms = 0
    for seed in range(60):
        pool, rng = made(seed, 400, [0.4, 0.3, 0.2, 0.1]), np.random.default_rng(seed)
        order = rng.permutation(400)
        alarms += find_shift(field_of(pool.of(order[:200])), field_of(pool.of(order[200:])), rng).alarm
    assert alarms <= 8  # of 60, at 5 %: more than 8 in 1 of 500 suites
    old = made(1, 400, [0.4, 0.3, 0.2, 0.1])
    for new in (made(2, 400, [0.1, 0.2, 0.3, 0.4]), made(3, 400, [0.4, 0.3, 0.2, 0.1], sure=1.0)):
        assert find_shift(field_of(old), field_of(new), np.random.default_rng(0)).alarm


@pytest.mark.parametrize(("shares", "sure"), [([0.4, 0.3, 0.3], 4.0), ([0.1, 0.2, 0.7], 4.0), ([0.4, 0.3, 0.3], 2.0)])
def test_the_interval_holds_the_truth_of_a_calibrated_model(shares: list[float], sure: float) -> None:
    reference, field = made(5, 1000, [0.4, 0.3, 0.3]), made(6, 1000, shares, sure)
    rng = np.random.default_rng(0)
    shift = find_shift(reference, field_of(field), rng)
    found = estimate(reference, field_of(field), shift, rng)
    truth = field.right.mean()
    assert found.interval[0] <= truth <= found.interval[1]
    assert found.interval[0] <= found.sampling[0] <= found.accuracy <= found.sampling[1] <= found.interval[1]
    assert (found.interval == found.sampling) == (not shift.alarm)
    assert found.drop == pytest.approx(100 * (reference.right.mean() - found.accuracy))
    assert found.drop_bound >= found.drop
    assert found.of_class.sum() == pytest.approx(found.accuracy * 1000)
    assert found.reweighted == (shares[2] == 0.7)


def test_more_images_narrow_the_interval() -> None:
    widths = []
    for n in (50, 500):
        reference, field = made(7, n, [0.5, 0.5]), made(8, n, [0.5, 0.5])
        rng = np.random.default_rng(0)
        low, high = estimate(reference, field_of(field), find_shift(reference, field_of(field), rng), rng).sampling
        widths.append(high - low)
    assert widths[1] < widths[0] / 2

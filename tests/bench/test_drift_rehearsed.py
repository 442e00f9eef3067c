"""Accuracy learned from rehearsed shifts: the regression by hand and by its algebra, and what an estimate takes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dhox.artefacts.rehearsal import Rehearsal
from dhox.bench.drift.accuracy import estimate, scaled
from dhox.bench.drift.estimators import FieldOrder, class_atc, class_cuts, passed_each
from dhox.bench.drift.rehearsed import NOISE, Learned, Regression, regressed
from dhox.bench.drift.sample import Answers, Reference
from dhox.bench.drift.shift import find_shift
from dhox.bench.drift.signals import Seen, Summary

CLASSES = 4


def answers_of(labels: np.ndarray, hard: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and classes of a model that is less sure and less right the harder the images are, in [0, 1], and
    that takes hard images for class 0."""
    n = len(labels)
    difficulty = np.clip(rng.beta(1.2, 4, n) + 0.6 * hard, 0, 1)
    wrong = rng.random(n) < difficulty
    other = np.where(rng.random(n) < 0.8, 0, (labels + 1) % CLASSES)
    confidence = np.clip(1 - 0.5 * difficulty - rng.random(n) * 0.2, 0.3, 0.999)  # too sure of hard images
    return confidence, np.where(wrong, other, labels)


def reference_of(n: int, hard: float, seed: int) -> Reference:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    confidence, predicted = answers_of(labels, hard, rng)
    return Reference(np.round(confidence, 6), predicted, CLASSES, labels)


def rehearsal_of(n: int = 400, seed: int = 0) -> Rehearsal:
    """Four kinds of alterations, three strengths each."""
    labels = np.random.default_rng(seed).integers(0, CLASSES, n)
    ways = [("none", 0.0), *[(kind, hard) for kind in "abcd" for hard in (0.15, 0.35, 0.6)]]
    # One generator state for all ways: the same images, altered more and more.
    rows = [answers_of(labels, hard, np.random.default_rng(seed + 1)) for _, hard in ways]
    return Rehearsal(
        np.array([kind for kind, _ in ways]), np.array([hard for _, hard in ways]), labels,
        np.stack([confidence for confidence, _ in rows]).astype(np.float32),
        np.stack([predicted for _, predicted in rows]).astype(np.int32),
    )  # fmt: skip


def field_of(reference: Reference) -> Answers:
    return Answers(reference.confidence, reference.predicted, reference.classes)


def test_the_regression_by_hand() -> None:
    # One signal of standard deviation 1, changes of variance 1: k(x, x') = exp(-(x - x')^2 / 4.5) + x x'.
    found = Regression.fit(np.array([[-1.0], [1.0]]), np.array([1.0, -1.0]))
    near, far = 1 + 1.0, np.exp(-4 / 4.5) - 1
    expected = 1 / (near - far + NOISE**2)  # of both weights, by symmetry
    assert found.weights == pytest.approx([expected, -expected])
    assert found.predict(np.array([[0.0]])) == pytest.approx([0.0])
    assert found.predict(np.array([[1.0]])) == pytest.approx([far * expected - near * expected])


@settings(max_examples=50)
@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 1000))
def test_rows_that_were_seen_are_met_up_to_the_noise(rows: int, signals: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (rows, signals)), rng.normal(0, 0.2, rows)
    found = Regression.fit(x, y)
    # y - f(x) = NOISE^2 weights, exactly (2.25 with the covariance of its own rows).
    assert y - found.predict(x) == pytest.approx(NOISE**2 * found.weights, abs=1e-9)
    shifted = Regression.fit(x * 7.0, y)
    assert shifted.predict(x * 7.0) == pytest.approx(found.predict(x), abs=1e-8)
    assert Regression.fit(x, -y).predict(x) == pytest.approx(-found.predict(x), abs=1e-9)


def test_what_never_moves_says_nothing() -> None:
    x = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    found = Regression.fit(x, np.array([0.0, -0.1, -0.2]))
    assert found.predict(np.array([[1.0, 5.0]])) == pytest.approx(found.predict(np.array([[1.0, 99.0]])))
    assert Regression.fit(x, np.zeros(3)).predict(x) == pytest.approx(np.zeros(3))


def test_nothing_moved_is_no_change() -> None:
    reference = reference_of(400, 0, 1)
    learned = Learned.of(class_cuts(reference), rehearsal_of())
    assert learned.signals[0] == pytest.approx(np.zeros(3))
    assert abs(learned.fit().predict(np.zeros((1, 3)))[0]) < 0.01
    summary = Seen.of(class_cuts(reference), reference).summary()
    assert summary.moved(summary, same_images=True) == pytest.approx(np.zeros(3))


@given(arrays(np.int64, st.integers(2, 40), elements=st.integers(0, 2)), st.integers(0, 5))
def test_the_distance_of_shares_is_unbiased(predicted: np.ndarray, seed: int) -> None:
    answers = Answers(np.full(len(predicted), 0.5), predicted, 3)
    one = Seen(np.ones(len(predicted)), answers).summary()
    # The mean squared distance of two different images of a set, one-hot, is 2 (n / (n - 1)) (1 - |shares|^2): what one
    # image in two sets of one is apart by chance.
    n, pairs = len(predicted), predicted[:, None] != predicted[None]
    assert one.chance * n == pytest.approx(pairs.sum() / (n * (n - 1)))
    other = Summary(n, one.passed, one.confidence, np.random.default_rng(seed).dirichlet(np.ones(3)))
    square = float(((one.shares - other.shares) ** 2).sum())
    assert one.moved(other)[2] == pytest.approx(square - one.chance - other.chance)
    assert one.moved(other, same_images=True)[2] == pytest.approx(square)
    assert one.moved(other)[2] == pytest.approx(other.moved(one)[2])


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0, 1))
def test_right_answers_come_to_the_estimate_and_never_beyond_the_counts(
    rows: list[tuple[int, float]], accuracy: float
) -> None:
    counts = np.array([count for count, _ in rows])
    if not counts.sum():
        return
    found = scaled(counts * np.array([share for _, share in rows]), counts, accuracy)
    assert found.sum() == pytest.approx(accuracy * counts.sum(), abs=1e-6) or not counts.any()
    assert (found <= counts + 1e-9).all()
    assert (found >= -1e-9).all()


def test_each_answer_passes_as_all_of_them_do() -> None:
    reference, field = reference_of(300, 0, 2), field_of(reference_of(200, 0.3, 3))
    passed = passed_each(class_cuts(reference), field)
    by_class = np.bincount(field.predicted, passed, CLASSES)
    assert by_class == pytest.approx(class_atc(reference, FieldOrder.of(field)))


def test_a_field_that_was_rehearsed_is_estimated_better() -> None:
    reference, rehearsal = reference_of(1000, 0, 4), rehearsal_of()
    for hard in (0.25, 0.5):
        field = reference_of(1000, hard, 5)
        rng = np.random.default_rng(0)
        shift = find_shift(reference, field_of(field), rng)
        plain, found = (estimate(reference, field_of(field), shift, rng, one) for one in (None, rehearsal))
        truth = float(field.right.mean())
        assert (plain.method, found.method) == ("atc-by-class", "rehearsed")
        assert abs(found.accuracy - truth) < 0.04 < abs(plain.accuracy - truth)
        assert found.interval[0] <= truth <= found.interval[1]
        assert found.interval[0] <= found.sampling[0] <= found.accuracy <= found.sampling[1] <= found.interval[1]
        assert found.drop == pytest.approx(100 * (reference.right.mean() - found.accuracy))
        assert found.drop_bound >= found.drop
        assert found.of_class.sum() == pytest.approx(found.accuracy * len(field))
        assert (found.atc, found.doc) == (plain.atc, plain.doc)


def test_without_a_shift_the_estimate_is_as_ever() -> None:
    reference, field = reference_of(400, 0, 6), field_of(reference_of(400, 0, 7))
    shift = find_shift(reference, field, np.random.default_rng(0))
    assert not shift.alarm
    plain, found = (estimate(reference, field, shift, np.random.default_rng(1), one) for one in (None, rehearsal_of()))
    assert found.method == "atc-by-class"
    assert (found.accuracy, found.interval) == (plain.accuracy, plain.interval)


def test_more_images_narrow_the_sampling_alone() -> None:
    rehearsal, found = rehearsal_of(), []
    for n in (50, 2000):
        held = regressed(reference_of(n, 0, 8), field_of(reference_of(n, 0.3, 9)), rehearsal, np.random.default_rng(0))
        found.append(held.drawn.std())
        assert held.below > 0
        assert held.above > 0
    assert found[1] < found[0] / 3


def test_a_kind_that_is_left_out_is_judged_by_the_others() -> None:
    rehearsal, cuts = rehearsal_of(), class_cuts(reference_of(400, 0, 1))
    learned = Learned.of(cuts, rehearsal)
    altered = rehearsal.kinds != "none"
    assert len(learned.errors()) == 2 * altered.sum()  # as they are, and with other class shares
    assert (learned.kinds[learned.seen] == "none").sum() == 9
    without = Learned.of(cuts, rehearsal.of(rehearsal.kinds != "a"))
    assert without.fit().predict(learned.signals) == pytest.approx(learned.fit(but="a").predict(learned.signals))

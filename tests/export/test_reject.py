from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Fold
from dhox.distill.results.validation_parts import selecting_half
from dhox.errors import UsageError
from dhox.export.folding.fold import fold_probs
from dhox.export.folding.reject import quantile_from_above, reject_threshold


def validation(n: int, seed: int = 0) -> Logits:
    """Logits that are right more often where they are surer."""
    random = np.random.default_rng(seed)
    labels, strength = random.integers(0, 5, n), random.uniform(0, 6, n)
    logits = random.normal(0, 1, (n, 5))
    logits[np.arange(n), labels] += strength
    return Logits(ce_logits=logits, kd_logits=logits, labels=labels, names=np.array([f"v/{i}" for i in range(n)]))


FOLD = Fold("exact", 0.4, 0.5)


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=50), share=st.floats(0.01, 1))
def test_at_least_the_share_reaches_the_threshold_and_no_larger_one_does(values: list[float], share: float) -> None:
    confidence = np.array(values)
    threshold = quantile_from_above(confidence, share)
    assert (confidence >= threshold).mean() >= share - 1e-6
    larger = confidence[confidence > threshold]
    assert not len(larger) or (confidence >= larger.min()).mean() < share + 1e-6


@pytest.mark.parametrize("asked", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("n", "images"), [(3000, "gate-half"), (400, "cross-fitted")])
def test_coverage_is_met_on_other_images_and_the_answered_are_better(asked: float, n: int, images: str) -> None:
    found = reject_threshold(validation(n), FOLD, asked)
    assert (found.images, found.asked) == (images, asked)
    assert found.coverage == pytest.approx(asked, abs=0.06)
    low, high = found.coverage_interval
    assert low < found.coverage < high
    assert found.answered.n == round(found.coverage * found.n)
    assert found.answered.accuracy > found.all.accuracy


def test_the_gating_half_does_not_choose() -> None:
    val = validation(2000)
    gate = ~selecting_half(val)
    weak = np.where(gate[:, None], 0.1 * val.ce_logits, val.ce_logits)
    moved = replace(val, ce_logits=weak, kd_logits=weak)
    before, after = reject_threshold(val, FOLD, 0.9), reject_threshold(moved, FOLD, 0.9)
    assert before.threshold == after.threshold
    assert after.coverage < 0.2 < before.coverage
    assert before.n == gate.sum()
    assert before.all.correct == (fold_probs(val, FOLD).argmax(-1) == val.labels)[gate].sum()


def test_everything_asked_answers_whatever_the_selecting_images_were() -> None:
    val = validation(200)
    assert reject_threshold(val, FOLD, 1.0).threshold == fold_probs(val, FOLD).max(-1).min()


@pytest.mark.parametrize("asked", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(asked: float) -> None:
    with refuses(f"--reject-coverage {asked:g}", at="export.folding.reject.reject_threshold", kind=UsageError):
        reject_threshold(validation(100), FOLD, asked)


def test_too_few_validation_images_are_named() -> None:
    reject_threshold(validation(20), FOLD, 0.9)
    with refuses("--reject-coverage", 20, 19, at="export.folding.reject.reject_threshold", fix="val"):
        reject_threshold(validation(19), FOLD, 0.9)

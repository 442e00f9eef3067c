from __future__ import annotations

import dataclasses
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from refusals import refuses

from dhox.artefacts.heads import Heads
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Fold
from dhox.distill.results.selection import ALPHAS, BETAS
from dhox.distill.results.validation_parts import selecting_half
from dhox.evidence.dho_inference import dho_probs, linear_probs
from dhox.evidence.statistics import negative_log_likelihood, softmax
from dhox.export.folding.fold import (
    R_GRID,
    choose_fold,
    choose_r,
    coefficients,
    compare,
    fit_tau,
    fold_probs,
    gate_evidence,
    golden_section,
    inference_linear,
    pool,
    tuned_linear,
    why_not_plain,
)
from dhox.export.graphs.graph import folded_head

ALPHA = st.floats(0, 1)
BETA = st.floats(0.1, 4)
SEED = st.integers(0, 2**20)


def two_heads(seed: int, classes: int = 5, features: int = 7) -> Heads:
    random = np.random.default_rng(seed)
    shapes = [(classes, features), (classes,)] * 2
    return Heads(*(random.normal(0, 1, shape).astype(np.float32) for shape in shapes), np.array("linear"))


def logits_of(heads: Heads, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kd_weight, kd_bias = heads.kd
    return z @ heads.ce_weight.T + heads.ce_bias, z @ kd_weight.T + kd_bias


def validation(n: int, seed: int = 0, ce_right: float = 0.7, kd_right: float = 0.7, **more: np.ndarray) -> Logits:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 6, n)
    out = {"labels": labels, "names": np.array([f"val/{i}.png" for i in range(n)], np.str_)}
    for head, right in (("ce", ce_right), ("kd", kd_right)):
        logits = random.normal(0, 1, (n, 6))
        logits[np.arange(n), labels] += np.where(random.random(n) < right, 4, -1)
        out[f"{head}_logits"] = logits.astype(np.float32)
    return Logits(**out, **more)


@given(alpha=ALPHA, beta=BETA, seed=SEED, classes=st.integers(2, 40))
def test_exact_fold_and_kept_heads_equal_dho_inference(alpha: float, beta: float, seed: int, classes: int) -> None:
    heads = two_heads(seed, classes)
    z = np.random.default_rng(seed).normal(0, 1, (16, 7)).astype(np.float32)
    expected = dho_probs(*logits_of(heads, z), alpha, beta)
    val = validation(0)
    exact, _ = choose_fold(val, tuned_linear(val, alpha, beta), "exact", 1.0)
    for fold in (exact, replace(exact, rule="heads")):
        probs = folded_head(heads, fold)(torch.from_numpy(z)).detach().numpy()
        assert probs.dtype == np.float32
        assert abs(probs - expected).max() < 2e-5


@given(seed=SEED, r=st.floats(0, 50), tau=st.floats(0.1, 10))
def test_linear_fold_is_one_layer_of_the_pooled_logits(seed: int, r: float, tau: float) -> None:
    heads = two_heads(seed)
    z = np.random.default_rng(seed).normal(0, 1, (16, 7)).astype(np.float32)
    fold = type(inference_linear(0.5, 1))("linear", 0.5, 1, *coefficients(r, tau), r, tau, "validation", True)
    head = folded_head(heads, fold)
    assert head.linear.weight.shape == (5, 7)
    expected = softmax(pool(*logits_of(heads, z), r) / tau)
    assert abs(head(torch.from_numpy(z)).detach().numpy() - expected).max() < 1e-4


@given(seed=SEED, alpha=ALPHA, beta=BETA, r=st.one_of(st.floats(0, 1e3), st.just(inf)))
def test_where_both_heads_agree_every_fold_agrees(seed: int, alpha: float, beta: float, r: float) -> None:
    ce, kd = logits_of(two_heads(seed), np.random.default_rng(seed).normal(0, 1, (64, 7)))
    both = ce.argmax(-1) == kd.argmax(-1)
    for logits in (ce, kd):
        ordered = np.sort(logits, -1)
        both &= ordered[:, -1] - ordered[:, -2] > 1e-3
    mixture = dho_probs(ce, kd, alpha, beta).argmax(-1)
    linear = linear_probs(ce, kd, *coefficients(r, 1.0)).argmax(-1)
    assert np.array_equal(mixture[both], ce.argmax(-1)[both])
    assert np.array_equal(linear[both], ce.argmax(-1)[both])


def test_inference_weights_are_those_of_the_mixture() -> None:
    fold = inference_linear(0.4, 0.5)
    assert (fold.c_ce, fold.c_kd, fold.r) == (0.4, pytest.approx(1.2), pytest.approx(3.0))
    assert inference_linear(0, 0.5).r is None


def test_r_is_the_centre_of_the_longest_plateau() -> None:
    ce, kd = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1.0]] * 2)  # class 1 wins where r > 1
    above = R_GRID[R_GRID > 1]
    assert choose_r(ce, kd, np.array([1, 1])) == above[len(above) // 2]
    below = R_GRID[R_GRID < 1]
    assert choose_r(ce, kd, np.array([0, 0])) == below[len(below) // 2]


def test_one_head_alone_wins_only_where_it_is_strictly_better() -> None:
    ce = np.array([[1.0, 0.0], [0.0, 1.0]])
    kd = np.array([[0.0, 100.0], [100.0, 0.0]])  # every r of the grid follows the KD head, which is always wrong
    assert choose_r(ce, kd, np.array([0, 1])) == 0
    assert choose_r(ce, kd, np.array([1, 0])) not in {0.0, inf}
    assert choose_r(100 * kd, 1e-3 * ce, np.array([0, 1])) == inf


def test_tau_minimises_the_nll() -> None:
    val = validation(600)
    pooled = pool(val.ce_logits, val.kd_logits, 1.5)
    tau = fit_tau(pooled, val.labels)
    best = negative_log_likelihood(softmax(pooled / tau), val.labels)
    for factor in (0.9, 1.1, 3):
        assert negative_log_likelihood(softmax(pooled / (tau * factor)), val.labels) >= best


def test_without_labels_the_mixture_is_matched() -> None:
    val = validation(800, ce_right=0.9, kd_right=0.9)
    few = validation(0, unlabelled_ce_logits=val.ce_logits, unlabelled_kd_logits=val.kd_logits)
    fold = tuned_linear(few, 0.4, 0.5)
    assert (fold.tuned_on, fold.calibrated) == ("unlabelled", False)
    linear, mixture = fold_probs(val, fold), dho_probs(val.ce_logits, val.kd_logits, 0.4, 0.5)
    assert (linear.argmax(-1) == mixture.argmax(-1)).mean() > 0.95
    assert linear.max(-1).mean() == pytest.approx(mixture.max(-1).mean(), abs=1e-3)
    assert tuned_linear(validation(0), 0.4, 0.5).tuned_on == "inference-weights"


@given(r=st.floats(0.01, 100), tau=st.floats(0.1, 10))
def test_given_numbers_are_taken(r: float, tau: float) -> None:
    val = validation(80)
    fold = tuned_linear(val, 0.4, 0.5, r=r, tau=tau)
    assert (fold.r, fold.tau, fold.tuned_on, fold.calibrated) == (r, tau, "given", False)
    assert tuned_linear(val, 0.4, 0.5, tau=tau).r == tuned_linear(val, 0.4, 0.5).r
    fitted = tuned_linear(val, 0.4, 0.5, r=r)
    assert (fitted.r, fitted.calibrated) == (r, True)
    assert fitted.tau == fit_tau(pool(val.ce_logits, val.kd_logits, r), val.labels)
    assert tuned_linear(val, 0.4, 0.5, r=inf, tau=tau).r is None


def test_without_images_one_of_r_and_tau_is_not_enough() -> None:
    assert tuned_linear(validation(0), 0.4, 0.5, r=2.0, tau=3.0).r == 2
    with refuses("r", "tau", at="export.folding.fold.tuned_linear", fix=("--r", "--tau")):
        tuned_linear(validation(0), 0.4, 0.5, r=2.0)


def test_evidence_of_given_numbers_chooses_nothing() -> None:
    val = validation(200)
    given = tuned_linear(val, 0.0, 1.0, r=inf)
    evidence = gate_evidence(val, given, 1.0, searched=False)
    assert evidence is not None
    assert (evidence.images, evidence.n, evidence.difference) == ("validation", 200, 0.0)  # the KD head, both
    searched = gate_evidence(val, given, 1.0)
    assert searched is not None
    assert searched.images == "cross-fitted"


@given(minimum=st.floats(0.02, 500))
def test_golden_section_finds_the_minimum_with_one_evaluation_per_step(minimum: float) -> None:
    calls = []

    def cost(x: float) -> float:
        calls.append(x)
        return (np.log(x) - np.log(minimum)) ** 2

    assert golden_section(cost, 1e-2, 1e3) == pytest.approx(minimum, rel=1e-5)
    assert len(calls) == 62


def test_the_grid_holds_the_inference_weights_of_the_search() -> None:
    weights = [(1 - a) / (a * b) for a in ALPHAS[1:-1] for b in BETAS]
    assert R_GRID[0] <= min(weights)
    assert max(weights) <= R_GRID[-1]


def test_auto_is_linear_only_with_evidence() -> None:
    good = validation(3000, ce_right=0.97, kd_right=0.97)
    fold, evidence = choose_fold(good, tuned_linear(good, 0.5, 1.0), "auto", 1.0)
    assert evidence is not None
    assert (fold.rule, evidence.images, evidence.passed) == ("linear", "gate-half", True)
    assert evidence.lower_bound <= evidence.difference
    assert choose_fold(good, tuned_linear(good, 0.5, 1.0), "auto", 0.0)[0].rule == (
        "linear" if evidence.lower_bound >= 0 else "exact"
    )

    few, shown = choose_fold(validation(80), tuned_linear(validation(80), 0.5, 1.0), "auto", 1.0)
    assert shown is not None
    assert (few.rule, shown.images, shown.n, shown.passed) == ("exact", "cross-fitted", 80, False)
    assert choose_fold(validation(60), tuned_linear(validation(60), 0.5, 1.0), "linear", 1.0)[0].rule == "linear"

    for n in (49, 60):  # four fifths of 60 are too few to choose on
        none, nothing = choose_fold(validation(n), tuned_linear(validation(n), 0.4, 0.5), "auto", 1.0)
        assert (none.rule, nothing) == ("exact", None)


def cosine_validation(n: int, spread: float) -> Logits:
    """Validation of a cosine KD head without bias, whose features differ in length by a factor of e^(+-spread)."""
    val = validation(n, ce_right=0.97, kd_right=0.97)
    norms = np.exp(np.random.default_rng(1).normal(0, spread, n))
    return dataclasses.replace(val, z_norms=norms.astype(np.float32), kd_bias=np.zeros(6, np.float32))


def test_the_plain_fold_of_a_cosine_head_has_its_own_gate() -> None:
    same, differ = cosine_validation(3000, 0.0), cosine_validation(3000, 3.0)
    for val in (same, differ):
        assert why_not_plain(val) is None
        linear, plain = tuned_linear(val, 0.5, 1.0), tuned_linear(val, 0.5, 1.0, plain=True)
        half = selecting_half(val)
        assert plain.z_norm == pytest.approx(1 / (1 / val.z_norms[half]).mean(), rel=1e-6)
        fold, evidence = choose_fold(val, linear, "auto", 1.0, plain=plain, cosine=True)
        assert evidence is not None
        assert fold == (plain if evidence.passed else Fold("exact", 0.5, 1.0))
        assert evidence.passed == (val is same)
        assert choose_fold(val, linear, "linear", 1.0, plain=plain, cosine=True)[0] == plain
        rows = {row.stage: row for row in compare(val, linear, plain)}
        assert rows["linear_plain"].agreement_with_dho <= 1
    assert evidence.difference < 0
    assert np.array_equal(fold_probs(same, plain).shape, (3000, 6))


def test_without_norms_a_cosine_head_stays_exact_unless_linear_is_asked_for() -> None:
    val = validation(3000, ce_right=0.97, kd_right=0.97)
    assert "val.npz holds no |z|" in str(why_not_plain(val))
    assert "no image says how long z is" in str(why_not_plain(cosine_validation(0, 0.0)))
    linear = tuned_linear(val, 0.5, 1.0)
    assert choose_fold(val, linear, "auto", 1.0)[0] == linear
    fold, evidence = choose_fold(val, linear, "auto", 1.0, cosine=True)  # as many weights as exact: nothing to gain
    assert evidence is not None
    assert (fold.rule, evidence.passed) == ("exact", True)
    assert choose_fold(val, linear, "linear", 1.0, cosine=True)[0] == linear


def test_evidence_never_comes_from_the_selecting_half() -> None:
    """Wrong labels in the gating half must show in the evidence, and must not move r."""
    val = validation(2000, ce_right=0.9, kd_right=0.9)
    from dhox.distill.results.validation_parts import selecting_half

    gate = ~selecting_half(val)
    before, _ = choose_fold(val, tuned_linear(val, 0.5, 1.0), "linear", 1.0)
    changed = dataclasses.replace(val, labels=np.where(gate, (val.labels + 1) % 6, val.labels))
    after, evidence = choose_fold(changed, tuned_linear(changed, 0.5, 1.0), "linear", 1.0)
    assert before == after
    assert evidence is not None
    assert evidence.n == gate.sum()
    assert compare(changed, tuned_linear(changed, 0.5, 1.0))[0].accuracy < 0.2


def test_comparison_lists_every_way_to_answer() -> None:
    rows = {row.stage: row for row in compare(validation(400), tuned_linear(validation(400), 0.4, 0.5))}
    assert list(rows) == ["ce_head", "kd_head", "dho", "exact", "linear_inference_weights", "linear_tuned"]
    assert rows["exact"].agreement_with_dho == 1
    assert rows["exact"].accuracy == rows["dho"].accuracy
    assert compare(validation(0), tuned_linear(validation(0), 0.4, 0.5)) == []

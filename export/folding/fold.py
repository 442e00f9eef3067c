"""The fold: two heads to one linear layer, chosen and proven on validation logits (numpy only).

`exact` stacks the heads (2C rows, a softmax over each half, the weighted sum) and equals DHO inference. `linear` has
C rows and one softmax: a log-linear pool, a different rule, so it is tuned, compared and gated, never called equal.
With a cosine KD head `linear` works on [z, z/|z|], which saves no weights; the plain linear fold puts one number, the
harmonic mean of |z|, in the place of |z| and is one C x d layer again: one more rule, with its own row and evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from math import inf, isinf
from typing import Literal

import numpy as np

from dhox.artefacts.common import Metric
from dhox.artefacts.logits import HeadLogits, Logits
from dhox.artefacts.manifest import ComparisonRow, Evidence, Fold
from dhox.distill.results.selection import FEWEST_IMAGES, choose_of
from dhox.distill.results.validation_parts import judging, selecting_half
from dhox.errors import DhoxError
from dhox.evidence.dho_inference import dho_probs, linear_probs
from dhox.evidence.statistics import (
    expected_calibration_error,
    negative_log_likelihood,
    paired_difference_lower_bound,
    score,
    softmax,
)

R_GRID = np.geomspace(0.0125, 200, 96)  # holds the inference weights of every alpha and beta of the search but 0 and 1
TAU_RANGE = (1e-2, 1e3)


def pool(ce_logits: np.ndarray, kd_logits: np.ndarray, r: float) -> np.ndarray:
    """ce + r kd; the KD logits alone where r is infinite. [N, C]."""
    return kd_logits if isinf(r) else ce_logits + r * kd_logits


def coefficients(r: float, tau: float) -> tuple[float, float]:
    """(c_ce, c_kd) of a linear fold."""
    return (0.0, 1 / tau) if isinf(r) else (1 / tau, r / tau)


def choose_r(ce_logits: np.ndarray, kd_logits: np.ndarray, targets: np.ndarray, metric: Metric = "accuracy") -> float:
    """The r whose answers meet `targets` [N] best by the metric: the centre of the longest run of maxima over R_GRID.

    0 and infinity (one head alone) win only where they are strictly better.
    """

    def reached(r: float) -> float:
        return round(score(pool(ce_logits, kd_logits, r).argmax(-1), targets, metric), 12)

    scores = [reached(r) for r in R_GRID]
    best = max(scores)
    runs = [[*run] for at_best, run in groupby(range(len(scores)), lambda i: scores[i] == best) if at_best]
    longest = max(runs, key=len)
    chosen = float(R_GRID[longest[len(longest) // 2]])
    for r in (0.0, inf):
        if reached(r) > best:
            best, chosen = reached(r), r
    return chosen


def golden_section(cost: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    """The minimum of a unimodal cost over [low, high], searched on the logarithm; one evaluation per step."""
    ratio = (5**0.5 - 1) / 2
    a, b = np.log(low), np.log(high)
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    at_c, at_d = cost(float(np.exp(c))), cost(float(np.exp(d)))
    for _ in range(steps):
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - ratio * (b - a)
            at_c = cost(float(np.exp(c)))
        else:
            a, c, at_c = c, d, at_d
            d = a + ratio * (b - a)
            at_d = cost(float(np.exp(d)))
    return float(np.exp((a + b) / 2))


def fit_tau(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least NLL of the labels [N] (convex in 1 / tau)."""
    return golden_section(lambda tau: negative_log_likelihood(softmax(logits / tau), labels), *TAU_RANGE)


def _match_tau(logits: np.ndarray, confidence: float) -> float:
    """The temperature at which the mean top probability of logits [N, C] is `confidence`."""
    return golden_section(lambda tau: abs(softmax(logits / tau).max(-1).mean() - confidence), *TAU_RANGE)


def harmonic_mean(z_norms: np.ndarray) -> float:
    """What stands for |z| in the plain fold: 1 / mean(1 / |z|), so that the mean factor of the KD logits stays."""
    return float(1 / (1 / z_norms.astype(np.float64)).mean())


def _linear_kd_logits(logits: HeadLogits, z_norm: float | None) -> np.ndarray:
    """The KD logits [N, C] that a linear fold pools.

    With `z_norm` those of a cosine head V z/|z| + c where it stands for |z|: V z/z_norm + c, up to an offset that all
    classes share. Without it they are as they are. Raises DhoxError where |z| or c is not known.
    """
    if z_norm is None:
        return logits.kd_logits
    if logits.z_norms is None or logits.kd_bias is None:
        raise DhoxError("The logits of this cosine KD head come without |z| or its bias.", "Train the run again.")
    factor = (logits.z_norms.astype(np.float64) / z_norm)[:, None]
    return factor * (logits.kd_logits - logits.kd_bias) + logits.kd_bias


def why_not_plain(val: Logits) -> str | None:
    """Why a cosine KD head cannot be folded into a plain C x d layer, or None."""
    if val.z_norms is None or val.kd_bias is None:
        return "val.npz holds no |z|: train again for a linear fold of C x d weights"
    if not len(val.z_norms) and (val.unlabelled is None or val.unlabelled.z_norms is None):
        return "no image says how long z is: export with validation or unlabelled images for a fold of C x d weights"
    return None


def tuned_linear(
    val: Logits,
    alpha: float,
    beta: float,
    metric: Metric = "accuracy",
    *,
    plain: bool = False,
    r: float | None = None,
    tau: float | None = None,
) -> Fold:
    """The linear fold tuned on the selecting validation images, else on unlabelled ones, else by inference weights.

    r maximises the metric, then tau the likelihood; without labels r matches the
    mixture's argmax, tau its mean top probability. `plain`: the plain fold of a cosine KD head (see `why_not_plain`).
    `r` (may be infinite) and `tau`: taken instead of tuned. Raises DhoxError where one of them is given and no image is
    there to fit the other on.
    """
    half = selecting_half(val)
    labelled = bool(half.sum() >= FEWEST_IMAGES)
    part: HeadLogits = val.of(half) if labelled else val.unlabelled or val
    z_norm = harmonic_mean(part.z_norms) if plain and part.z_norms is not None else None
    if not labelled and part is val and (r is None or tau is None):
        if r is not None or tau is not None:
            raise DhoxError(
                "No validation or unlabelled image is there to fit r or tau on.", "Give both, --r and --tau."
            )
        return inference_linear(alpha, beta, z_norm)
    ce_logits, kd_logits = part.ce_logits, _linear_kd_logits(part, z_norm)
    mixture = dho_probs(ce_logits, part.kd_logits, alpha, beta)
    targets = val.labels[half] if labelled else mixture.argmax(-1)
    tuned_on: Literal["given", "validation", "unlabelled"] = "validation" if labelled else "unlabelled"
    if r is not None:
        tuned_on = "given"
    if r is None:
        r = choose_r(ce_logits, kd_logits, targets, metric if labelled else "accuracy")
    calibrated = labelled and tau is None
    if tau is None:
        logits = pool(ce_logits, kd_logits, r)
        tau = fit_tau(logits, targets) if labelled else _match_tau(logits, float(mixture.max(-1).mean()))
    c_ce, c_kd = coefficients(r, tau)
    return Fold("linear", alpha, beta, c_ce, c_kd, None if isinf(r) else r, tau, tuned_on, calibrated, z_norm)


def inference_linear(alpha: float, beta: float, z_norm: float | None = None) -> Fold:
    """The linear fold with the mixture's own alpha and beta: c = (alpha, (1 - alpha) / beta)."""
    r = None if alpha < 1e-9 else (1 - alpha) / (alpha * beta)
    return Fold("linear", alpha, beta, alpha, (1 - alpha) / beta, r, None, "inference-weights", z_norm=z_norm)


def gate_evidence(
    val: Logits, linear: Fold, tolerance: float, metric: Metric = "accuracy", searched: bool = True
) -> Evidence | None:
    """Whether a linear fold of `tuned_linear` is not worse than DHO inference by more than `tolerance` points.

    The gating half of validation where there are halves; with fewer images 5-fold cross-fitting, where z_norm, r and,
    if they were `searched`, alpha and beta are chosen on four folds and judged on the fifth. What was given is judged
    as it is. None where validation is too small for a choice and a judgement.
    """
    half = selecting_half(val)
    if half.sum() < FEWEST_IMAGES:
        return None
    images: Literal["gate-half", "cross-fitted", "validation"] = "validation"
    splits = [(half, half)]
    if not half.all() or linear.tuned_on != "given" or searched or linear.z_norm is not None:
        found = judging(val, FEWEST_IMAGES)
        if found is None:
            return None
        images, splits = found.images, found.splits
    linear_right, mixture_right = np.zeros(len(val), bool), np.zeros(len(val), bool)
    for choose, judge in splits:
        search = images == "cross-fitted" and searched
        linear_right[judge], mixture_right[judge] = _judged_right(
            val.of(choose), val.of(judge), linear, metric, search=search
        )
    judged = np.any([judge for _, judge in splits], axis=0)
    bound = 100 * paired_difference_lower_bound(linear_right[judged], mixture_right[judged])
    difference = 100 * float(linear_right[judged].mean() - mixture_right[judged].mean())
    return Evidence(images, int(judged.sum()), difference, bound, tolerance, bound >= -tolerance)


def _judged_right(
    chosen: Logits, judged: Logits, linear: Fold, metric: Metric, *, search: bool
) -> tuple[np.ndarray, np.ndarray]:
    """bool [N] of the `judged` images: right by the linear fold, and by DHO inference.

    z_norm and r, where they were not given, and alpha and beta (`search`) are chosen on the images `chosen`.
    """
    alpha, beta = linear.alpha, linear.beta
    if search:
        found = choose_of(chosen, metric)
        alpha, beta = found.alpha, found.beta
    mixture = dho_probs(judged.ce_logits, judged.kd_logits, alpha, beta)
    z_norm = harmonic_mean(chosen.z_norms) if linear.z_norm is not None and chosen.z_norms is not None else None
    r = inf if linear.r is None else linear.r
    if linear.tuned_on != "given":
        r = choose_r(chosen.ce_logits, _linear_kd_logits(chosen, z_norm), chosen.labels, metric)
    pooled = pool(judged.ce_logits, _linear_kd_logits(judged, z_norm), r)
    return pooled.argmax(-1) == judged.labels, mixture.argmax(-1) == judged.labels


def choose_fold(
    val: Logits,
    linear: Fold,
    rule: str,
    tolerance: float,
    metric: Metric = "accuracy",
    *,
    plain: Fold | None = None,
    cosine: bool = False,
    searched: bool = True,
) -> tuple[Fold, Evidence | None]:
    """The fold that `rule` (auto, linear or exact) gives, with the evidence for or against the linear one.

    `linear`, `plain`: of `tuned_linear`. `tolerance`: points of accuracy that auto may lose, --fold-tolerance. With a
    `cosine` KD head linear means the plain fold, of C x d weights, where there is one; auto never takes the fold in
    [z, z/|z|], which has as many weights as exact. `searched`: alpha and beta were. No evidence (None) where
    validation is too small to tune on.
    """
    contender = plain or linear
    evidence = gate_evidence(val, contender, tolerance, metric, searched)
    saves = plain is not None or not cosine
    if rule == "linear" or (rule == "auto" and saves and evidence is not None and evidence.passed):
        return contender, evidence
    return Fold("exact", linear.alpha, linear.beta), evidence


def fold_probs(logits: HeadLogits, fold: Fold) -> np.ndarray:
    """What the folded head answers to stored logits, float64 [N, C]."""
    if fold.rule == "single":
        return softmax(logits.ce_logits)
    if fold.rule == "linear":
        return linear_probs(logits.ce_logits, _linear_kd_logits(logits, fold.z_norm), fold.c_ce, fold.c_kd)
    return dho_probs(logits.ce_logits, logits.kd_logits, fold.alpha, fold.beta)


def gate_images(val: Logits) -> np.ndarray:
    """bool [N]: the validation images that judge: the gating half, or all where there are no halves."""
    half = selecting_half(val)
    return np.ones(len(val), bool) if half.all() else ~half


def compare(val: Logits, tuned: Fold, plain: Fold | None = None) -> list[ComparisonRow]:
    """One row per way to answer: accuracy with interval, top-1 agreement with DHO inference, calibration error.

    On the gate images; where there are no halves, the same images chose alpha, beta, r and tau.
    """
    judged = val.of(gate_images(val))
    if not len(judged):
        return []
    mixture = fold_probs(judged, Fold("exact", tuned.alpha, tuned.beta))
    answers = {
        "ce_head": softmax(judged.ce_logits),
        "kd_head": softmax(judged.kd_logits),
        "dho": mixture,
        "exact": mixture,
        "linear_inference_weights": fold_probs(judged, inference_linear(tuned.alpha, tuned.beta)),
        "linear_tuned": fold_probs(judged, tuned),
    }
    if plain is not None:
        answers["linear_plain"] = fold_probs(judged, plain)
    return [
        ComparisonRow.of(
            probs.argmax(-1) == judged.labels,
            stage=stage,
            agreement_with_dho=float((probs.argmax(-1) == mixture.argmax(-1)).mean()),
            calibration_error=expected_calibration_error(probs, judged.labels),
        )
        for stage, probs in answers.items()
    ]

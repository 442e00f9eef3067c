"""The fold: two heads to one linear layer, chosen and proven on validation logits (numpy only).

`exact` stacks the heads (2C rows, a softmax over each half, the weighted sum) and equals DHO inference. `linear` has
C rows and one softmax: a log-linear pool, a different rule, so it is tuned, compared and gated, never called equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf, isinf
from typing import Any

import numpy as np

from dhox.distill.selection import FEWEST_IMAGES, FOLDS, choose_alpha_beta, fold_of, selecting_half
from dhox.heads import dho_probs, linear_probs
from dhox.stats import (
    accuracy_row,
    expected_calibration_error,
    negative_log_likelihood,
    paired_difference_lower_bound,
    score,
    softmax,
)

R_GRID = np.geomspace(0.02, 60, 80)
TAU_RANGE = (1e-2, 1e3)


@dataclass(frozen=True)
class Fold:
    """What the exported head computes.

    `rule`: single (one-head student), heads (unfolded), exact or linear. alpha and beta are those of DHO inference. The
    linear fold alone has the rest: W = c_ce W_ce + c_kd W_kd; r = c_kd / c_ce (None: infinite) and the temperature tau;
    `tuned_on` validation, unlabelled or inference-weights; `calibrated`: tau was fitted to labels.
    """

    rule: str
    alpha: float
    beta: float
    c_ce: float = 0.0
    c_kd: float = 0.0
    r: float | None = None
    tau: float | None = None
    tuned_on: str | None = None
    calibrated: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """Accuracy of the linear fold minus DHO inference on the same gate images, in points, with its lower bound.

    `lower_bound`: one-sided 95 %. `images`: gate-half or cross-fitted.
    """

    images: str
    n: int
    difference: float
    lower_bound: float
    tolerance: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


def pool(ce_logits: np.ndarray, kd_logits: np.ndarray, r: float) -> np.ndarray:
    """ce + r kd; the KD logits alone where r is infinite. [N, C]."""
    return kd_logits if isinf(r) else ce_logits + r * kd_logits


def coefficients(r: float, tau: float) -> tuple[float, float]:
    """(c_ce, c_kd) of a linear fold."""
    return (0.0, 1 / tau) if isinf(r) else (1 / tau, r / tau)


def choose_r(ce_logits: np.ndarray, kd_logits: np.ndarray, targets: np.ndarray, metric: str = "accuracy") -> float:
    """The r whose answers meet `targets` [N] best by the metric: the centre of the longest run of maxima over R_GRID.

    0 and infinity (one head alone) win only where they are strictly better.
    """

    def reached(r: float) -> float:
        return round(score(pool(ce_logits, kd_logits, r).argmax(-1), targets, metric), 12)

    scores = [reached(r) for r in R_GRID]
    best = max(scores)
    runs: list[list[int]] = []
    for i, here in enumerate(scores):
        if here == best:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
    longest = max(runs, key=len)
    chosen = float(R_GRID[longest[len(longest) // 2]])
    for r in (0.0, inf):
        if reached(r) > best:
            best, chosen = reached(r), r
    return chosen


def golden_section(cost: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    """The minimum of a unimodal cost over [low, high], searched on the logarithm."""
    a, b = np.log(low), np.log(high)
    ratio = (5**0.5 - 1) / 2
    for _ in range(steps):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        a, b = (a, d) if cost(float(np.exp(c))) < cost(float(np.exp(d))) else (c, b)
    return float(np.exp((a + b) / 2))


def tune_on_labels(
    ce_logits: np.ndarray, kd_logits: np.ndarray, labels: np.ndarray, metric: str = "accuracy"
) -> tuple[float, float]:
    """(r, tau): r by the metric, then tau by the NLL of the labels (convex in 1 / tau)."""
    r = choose_r(ce_logits, kd_logits, labels, metric)
    logits = pool(ce_logits, kd_logits, r)
    return r, golden_section(lambda tau: negative_log_likelihood(softmax(logits / tau), labels), *TAU_RANGE)


def tune_on_mixture(ce_logits: np.ndarray, kd_logits: np.ndarray, alpha: float, beta: float) -> tuple[float, float]:
    """(r, tau) without labels: r matches the mixture's argmax, tau its mean top probability."""
    mixture = dho_probs(ce_logits, kd_logits, alpha, beta)
    r = choose_r(ce_logits, kd_logits, mixture.argmax(-1))
    logits, confidence = pool(ce_logits, kd_logits, r), mixture.max(-1).mean()
    return r, golden_section(lambda tau: abs(softmax(logits / tau).max(-1).mean() - confidence), *TAU_RANGE)


def tuned_linear(val: dict[str, np.ndarray], alpha: float, beta: float, metric: str = "accuracy") -> Fold:
    """The linear fold tuned on the selecting validation images, else on unlabelled ones, else by inference weights.

    `val`: the arrays of val.npz.
    """
    half = selecting_half(val["names"].tolist())
    if half.sum() >= FEWEST_IMAGES:
        r, tau = tune_on_labels(val["ce_logits"][half], val["kd_logits"][half], val["labels"][half], metric)
        tuned_on = "validation"
    elif "unlabelled_ce_logits" in val:
        r, tau = tune_on_mixture(val["unlabelled_ce_logits"], val["unlabelled_kd_logits"], alpha, beta)
        tuned_on = "unlabelled"
    else:
        return inference_linear(alpha, beta)
    c_ce, c_kd = coefficients(r, tau)
    return Fold("linear", alpha, beta, c_ce, c_kd, None if isinf(r) else r, tau, tuned_on, tuned_on == "validation")


def inference_linear(alpha: float, beta: float) -> Fold:
    """The linear fold with the mixture's own alpha and beta: c = (alpha, (1 - alpha) / beta)."""
    r = None if alpha < 1e-9 else (1 - alpha) / (alpha * beta)
    return Fold("linear", alpha, beta, alpha, (1 - alpha) / beta, r, None, "inference-weights")


def gate_evidence(
    val: dict[str, np.ndarray], alpha: float, beta: float, tolerance: float, metric: str = "accuracy"
) -> Evidence | None:
    """Whether the tuned linear fold is not worse than DHO inference by more than `tolerance` points.

    The gating half of validation where there are halves; with fewer images 5-fold cross-fitting, where alpha, beta and
    r are chosen on four folds and judged on the fifth. None where validation is too small to tune on.
    """
    ce_logits, kd_logits, labels, names = val["ce_logits"], val["kd_logits"], val["labels"], val["names"].tolist()
    half = selecting_half(names)
    if half.sum() < FEWEST_IMAGES:
        return None
    linear_right, mixture_right = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    if half.all():
        folds, images = fold_of(names), "cross-fitted"
        splits = [(folds != k, folds == k) for k in range(FOLDS) if (folds == k).any() and (folds != k).any()]
    else:
        splits, images = [(half, ~half)], "gate-half"
    for choose, judge in splits:
        a, b = alpha, beta
        if images == "cross-fitted":
            chosen = choose_alpha_beta(ce_logits[choose], kd_logits[choose], labels[choose], metric)
            a, b = chosen.alpha, chosen.beta
        r = choose_r(ce_logits[choose], kd_logits[choose], labels[choose], metric)
        linear_right[judge] = pool(ce_logits[judge], kd_logits[judge], r).argmax(-1) == labels[judge]
        mixture_right[judge] = dho_probs(ce_logits[judge], kd_logits[judge], a, b).argmax(-1) == labels[judge]
    judged = np.any([judge for _, judge in splits], axis=0)
    bound = 100 * paired_difference_lower_bound(linear_right[judged], mixture_right[judged])
    difference = 100 * float(linear_right[judged].mean() - mixture_right[judged].mean())
    return Evidence(images, int(judged.sum()), difference, bound, tolerance, bound >= -tolerance)


def choose_fold(
    val: dict[str, np.ndarray], linear: Fold, rule: str, tolerance: float, metric: str = "accuracy"
) -> tuple[Fold, Evidence | None]:
    """The fold that `rule` (auto, linear or exact) gives, with the evidence for or against the linear one.

    `linear`: of `tuned_linear`. `tolerance`: points of accuracy that auto may lose, --fold-tolerance. No evidence
    (None) where validation is too small to tune on.
    """
    evidence = gate_evidence(val, linear.alpha, linear.beta, tolerance, metric)
    if rule == "linear" or (rule == "auto" and evidence is not None and evidence.passed):
        return linear, evidence
    return Fold("exact", linear.alpha, linear.beta), evidence


def gate_images(names: list[str]) -> np.ndarray:
    """bool [N]: the validation images that judge: the gating half, or all where there are no halves."""
    half = selecting_half(names)
    return np.ones(len(names), bool) if half.all() else ~half


def compare(val: dict[str, np.ndarray], tuned: Fold) -> list[dict[str, Any]]:
    """One row per way to answer: accuracy with interval, top-1 agreement with DHO inference, calibration error.

    On the gate images; where there are no halves, the same images chose alpha, beta, r and tau.
    """
    judge = gate_images(val["names"].tolist())
    ce_logits, kd_logits, labels = (val[name][judge] for name in ("ce_logits", "kd_logits", "labels"))
    if not len(labels):
        return []
    mixture = dho_probs(ce_logits, kd_logits, tuned.alpha, tuned.beta)
    inference = inference_linear(tuned.alpha, tuned.beta)
    answers = {
        "ce_head": softmax(ce_logits),
        "kd_head": softmax(kd_logits),
        "dho": mixture,
        "exact": mixture,
        "linear_inference_weights": linear_probs(ce_logits, kd_logits, inference.c_ce, inference.c_kd),
        "linear_tuned": linear_probs(ce_logits, kd_logits, tuned.c_ce, tuned.c_kd),
    }
    return [
        {
            "stage": stage,
            **accuracy_row(probs.argmax(-1) == labels),
            "agreement_with_dho": float((probs.argmax(-1) == mixture.argmax(-1)).mean()),
            "calibration_error": expected_calibration_error(probs, labels),
        }
        for stage, probs in answers.items()
    ]

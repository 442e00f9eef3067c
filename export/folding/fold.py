"""The fold: two heads to one linear layer, chosen and proven on validation logits (numpy only).

`exact` stacks the heads (2C rows, a softmax over each half, the weighted sum) and equals DHO inference. `linear` has
C rows and one softmax: a log-linear pool, a different rule, so it is tuned, compared and gated, never called equal.
With a cosine KD head `linear` works on [z, z/|z|], which saves no weights; the plain linear fold puts one number, the
harmonic mean of |z|, in the place of |z| and is one C x d layer again: one more rule, with its own row and evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf, isinf
from typing import Any

import numpy as np

from dhox.distill.results.selection import FEWEST_IMAGES, FOLDS, choose_alpha_beta, fold_of, selecting_half
from dhox.errors import DhoxError
from dhox.evidence.dho_inference import dho_probs, linear_probs
from dhox.evidence.statistics import (
    accuracy_row,
    expected_calibration_error,
    negative_log_likelihood,
    paired_difference_lower_bound,
    score,
    softmax,
)

R_GRID = np.geomspace(0.0125, 200, 96)  # holds the inference weights of every alpha and beta of the search but 0 and 1
TAU_RANGE = (1e-2, 1e3)


@dataclass(frozen=True)
class Fold:
    """What the exported head computes.

    `rule`: single (one-head student), heads (unfolded), exact or linear. alpha and beta are those of DHO inference. The
    linear fold alone has the rest: W = c_ce W_ce + c_kd W_kd; r = c_kd / c_ce (None: infinite) and the temperature tau;
    `tuned_on`: what chose r, validation, unlabelled, inference-weights or given. `calibrated`: tau fits the labels.
    `z_norm`: what stands for |z| in the plain fold of a cosine KD head, W = c_ce W_ce + (c_kd / z_norm) W_kd.
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
    z_norm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """Accuracy of the linear fold minus DHO inference on the same gate images, in points, with its lower bound.

    `lower_bound`: one-sided 95 %. `images`: gate-half, cross-fitted, or validation where nothing was chosen on it.
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


def match_tau(logits: np.ndarray, confidence: float) -> float:
    """The temperature at which the mean top probability of logits [N, C] is `confidence`."""
    return golden_section(lambda tau: abs(softmax(logits / tau).max(-1).mean() - confidence), *TAU_RANGE)


def harmonic_mean(z_norms: np.ndarray) -> float:
    """What stands for |z| in the plain fold: 1 / mean(1 / |z|), so that the mean factor of the KD logits stays."""
    return float(1 / (1 / z_norms.astype(np.float64)).mean())


def plain_kd_logits(val: dict[str, np.ndarray], z_norm: float, prefix: str = "") -> np.ndarray:
    """KD logits [N, C] of a cosine head V z/|z| + c with |z| replaced by `z_norm`: V z/z_norm + c, up to an offset that
    all classes share.

    `val`: <prefix>kd_logits [N, C], <prefix>z_norms [N] = |z|, kd_bias [C] = c.
    """
    factor = (val[f"{prefix}z_norms"].astype(np.float64) / z_norm)[:, None]
    return factor * (val[f"{prefix}kd_logits"] - val["kd_bias"]) + val["kd_bias"]


def linear_kd_logits(val: dict[str, np.ndarray], z_norm: float | None, prefix: str = "") -> np.ndarray:
    """The KD logits that a linear fold pools: as they are, or those of `plain_kd_logits`."""
    return val[f"{prefix}kd_logits"] if z_norm is None else plain_kd_logits(val, z_norm, prefix)


def why_not_plain(val: dict[str, np.ndarray]) -> str | None:
    """Why a cosine KD head cannot be folded into a plain C x d layer, or None."""
    if "z_norms" not in val:
        return "val.npz holds no |z| (an earlier dhox trained this run): train again for a linear fold of C x d weights"
    if not len(val["z_norms"]) + len(val.get("unlabelled_z_norms", ())):
        return "no image says how long z is: export with validation or unlabelled images for a fold of C x d weights"
    return None


def tuned_linear(
    val: dict[str, np.ndarray],
    alpha: float,
    beta: float,
    metric: str = "accuracy",
    *,
    plain: bool = False,
    r: float | None = None,
    tau: float | None = None,
) -> Fold:
    """The linear fold tuned on the selecting validation images, else on unlabelled ones, else by inference weights.

    `val`: the arrays of val.npz. r maximises the metric, then tau the likelihood; without labels r matches the
    mixture's argmax, tau its mean top probability. `plain`: the plain fold of a cosine KD head (see `why_not_plain`).
    `r` (may be infinite) and `tau`: taken instead of tuned. Raises DhoxError where one of them is given and no image is
    there to fit the other on.
    """
    half = selecting_half(val["names"].tolist())
    labelled = bool(half.sum() >= FEWEST_IMAGES)
    prefix = "unlabelled_" if not labelled and "unlabelled_ce_logits" in val else ""
    part = half if labelled else slice(None)
    z_norm = harmonic_mean(val[f"{prefix}z_norms"][part]) if plain else None
    if not labelled and not prefix and (r is None or tau is None):
        if r is not None or tau is not None:
            raise DhoxError(
                "No validation or unlabelled image is there to fit r or tau on.", "Give both, --r and --tau."
            )
        return inference_linear(alpha, beta, z_norm)
    ce_logits, kd_logits = val[f"{prefix}ce_logits"][part], linear_kd_logits(val, z_norm, prefix)[part]
    mixture = dho_probs(ce_logits, val[f"{prefix}kd_logits"][part], alpha, beta)
    targets = val["labels"][part] if labelled else mixture.argmax(-1)
    tuned_on = "given" if r is not None else "validation" if labelled else "unlabelled"
    if r is None:
        r = choose_r(ce_logits, kd_logits, targets, metric if labelled else "accuracy")
    calibrated = labelled and tau is None
    if tau is None:
        logits = pool(ce_logits, kd_logits, r)
        tau = fit_tau(logits, targets) if labelled else match_tau(logits, float(mixture.max(-1).mean()))
    c_ce, c_kd = coefficients(r, tau)
    return Fold("linear", alpha, beta, c_ce, c_kd, None if isinf(r) else r, tau, tuned_on, calibrated, z_norm)


def inference_linear(alpha: float, beta: float, z_norm: float | None = None) -> Fold:
    """The linear fold with the mixture's own alpha and beta: c = (alpha, (1 - alpha) / beta)."""
    r = None if alpha < 1e-9 else (1 - alpha) / (alpha * beta)
    return Fold("linear", alpha, beta, alpha, (1 - alpha) / beta, r, None, "inference-weights", z_norm=z_norm)


def gate_evidence(
    val: dict[str, np.ndarray], linear: Fold, tolerance: float, metric: str = "accuracy", searched: bool = True
) -> Evidence | None:
    """Whether a linear fold of `tuned_linear` is not worse than DHO inference by more than `tolerance` points.

    The gating half of validation where there are halves; with fewer images 5-fold cross-fitting, where z_norm, r and,
    if they were `searched`, alpha and beta are chosen on four folds and judged on the fifth. What was given is judged
    as it is. None where validation is too small to tune on.
    """
    labels, names = val["labels"], val["names"].tolist()
    half = selecting_half(names)
    if half.sum() < FEWEST_IMAGES:
        return None
    r_given = linear.tuned_on == "given"
    if not half.all():
        splits, images = [(half, ~half)], "gate-half"
    elif r_given and not searched and linear.z_norm is None:
        splits, images = [(half, half)], "validation"
    else:
        folds, images = fold_of(names), "cross-fitted"
        splits = [(folds != k, folds == k) for k in range(FOLDS) if (folds == k).any() and (folds != k).any()]
    linear_right, mixture_right = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for choose, judge in splits:
        a, b = linear.alpha, linear.beta
        ce_logits, kd_logits = val["ce_logits"], val["kd_logits"]
        if images == "cross-fitted" and searched:
            chosen = choose_alpha_beta(ce_logits[choose], kd_logits[choose], labels[choose], metric)
            a, b = chosen.alpha, chosen.beta
        mixture_right[judge] = dho_probs(ce_logits[judge], kd_logits[judge], a, b).argmax(-1) == labels[judge]
        z_norm = None if linear.z_norm is None else harmonic_mean(val["z_norms"][choose])
        kd_logits = linear_kd_logits(val, z_norm)
        r = inf if linear.r is None else linear.r
        if not r_given:
            r = choose_r(ce_logits[choose], kd_logits[choose], labels[choose], metric)
        linear_right[judge] = pool(ce_logits[judge], kd_logits[judge], r).argmax(-1) == labels[judge]
    judged = np.any([judge for _, judge in splits], axis=0)
    bound = 100 * paired_difference_lower_bound(linear_right[judged], mixture_right[judged])
    difference = 100 * float(linear_right[judged].mean() - mixture_right[judged].mean())
    return Evidence(images, int(judged.sum()), difference, bound, tolerance, bound >= -tolerance)


def choose_fold(
    val: dict[str, np.ndarray],
    linear: Fold,
    rule: str,
    tolerance: float,
    metric: str = "accuracy",
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


def fold_probs(val: dict[str, np.ndarray], fold: Fold) -> np.ndarray:
    """What the folded head answers to stored logits, float64 [N, C]."""
    if fold.rule == "single":
        return softmax(val["ce_logits"])
    if fold.rule == "linear":
        return linear_probs(val["ce_logits"], linear_kd_logits(val, fold.z_norm), fold.c_ce, fold.c_kd)
    return dho_probs(val["ce_logits"], val["kd_logits"], fold.alpha, fold.beta)


def gate_images(names: list[str]) -> np.ndarray:
    """bool [N]: the validation images that judge: the gating half, or all where there are no halves."""
    half = selecting_half(names)
    return np.ones(len(names), bool) if half.all() else ~half


def compare(val: dict[str, np.ndarray], tuned: Fold, plain: Fold | None = None) -> list[dict[str, Any]]:
    """One row per way to answer: accuracy with interval, top-1 agreement with DHO inference, calibration error.

    On the gate images; where there are no halves, the same images chose alpha, beta, r and tau.
    """
    judge = gate_images(val["names"].tolist())
    labels = val["labels"][judge]
    if not len(labels):
        return []
    mixture = fold_probs(val, Fold("exact", tuned.alpha, tuned.beta))
    answers = {
        "ce_head": softmax(val["ce_logits"]),
        "kd_head": softmax(val["kd_logits"]),
        "dho": mixture,
        "exact": mixture,
        "linear_inference_weights": fold_probs(val, inference_linear(tuned.alpha, tuned.beta)),
        "linear_tuned": fold_probs(val, tuned),
    }
    if plain is not None:
        answers["linear_plain"] = fold_probs(val, plain)
    return [
        {
            "stage": stage,
            **accuracy_row(probs[judge].argmax(-1) == labels),
            "agreement_with_dho": float((probs.argmax(-1) == mixture.argmax(-1))[judge].mean()),
            "calibration_error": expected_calibration_error(probs[judge], labels),
        }
        for stage, probs in answers.items()
    ]

"""The reject threshold: below it the exported model answers "unknown", with measured coverage (numpy only)."""

from __future__ import annotations

from math import floor

import numpy as np

from dhox.artefacts.common import Accuracy
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Fold, Reject
from dhox.distill.results.validation_parts import judging, selecting_half
from dhox.errors import DhoxError, UsageError
from dhox.evidence.statistics import wilson_interval
from dhox.export.folding.fold import fold_probs

FEWEST_IMAGES = 20  # with fewer, a share of 95 % cannot be told from all


def reject_threshold(val: Logits, fold: Fold, asked: float) -> Reject:
    """The top probability from which on the folded model answers, and what that costs.

    `asked`: the share of the selecting validation images to be answered, in (0, 1].
    `threshold`: the largest with at least that share at or above it. `coverage` (with its 95 % interval), `answered`
    and `all` (rows of accuracy) are measured on images that did not choose the threshold: `images` is gate-half, or
    cross-fitted where there are no halves (five thresholds, each from four fifths; alpha, beta, r and tau saw all).
    Raises UsageError for a share outside (0, 1], DhoxError where there are too few validation images or groups.
    """
    if not 0 < asked <= 1:
        raise UsageError(f"--reject-coverage {asked:g} is not a share of the images.", "Give one above 0, at most 1.")
    labels = val.labels
    if len(labels) < FEWEST_IMAGES:
        raise DhoxError(
            f"--reject-coverage needs at least {FEWEST_IMAGES} validation images, and there are {len(labels)}.",
            "Give DATA a val split, or leave the option out.",
        )
    probs = fold_probs(val, fold)
    confidence, right = probs.max(-1), probs.argmax(-1) == labels
    measured = judging(val, fewest=1)
    if measured is None:
        raise DhoxError(
            "--reject-coverage needs validation images of at least two groups, and there is one.",
            "Give DATA a val split of more groups, or leave the option out.",
        )
    answered, judged = np.zeros(len(labels), bool), measured.judged
    for choose, judge in measured.splits:
        answered[judge] = confidence[judge] >= quantile_from_above(confidence[choose], asked)
    n, kept = int(judged.sum()), int(answered.sum())
    return Reject(
        asked=asked,
        threshold=min(quantile_from_above(confidence[selecting_half(val)], asked), 1.0),
        coverage=kept / n,
        coverage_interval=wilson_interval(kept, n),
        answered=Accuracy.of(right[answered]),
        all=Accuracy.of(right[judged]),
        n=n,
        images=measured.images,
    )


def quantile_from_above(confidence: np.ndarray, share: float) -> float:
    """The largest threshold that at least `share` of the values reach."""
    ordered = np.sort(confidence)
    return float(ordered[min(floor((1 - share) * len(ordered) + 1e-9), len(ordered) - 1)])

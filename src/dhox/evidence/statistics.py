"""Statistics shared by selection, fold, ledger and bench (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, cos, log, pi, sin, sqrt, tan

import numpy as np

Z_95_TWO_SIDED = 1.959964
Z_95_ONE_SIDED = 1.644854
MOST_CONFUSION_CLASSES = 30  # beyond, a confusion matrix is neither stored nor drawn


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    exp = np.exp(shifted)
    return exp / exp.sum(-1, keepdims=True)


def wilson_interval(correct: int, n: int, z: float = Z_95_TWO_SIDED) -> tuple[float, float]:
    """Wilson's score interval of a proportion, in [0, 1] (Wilson 1927); `z`: 95 % two-sided, or one-sided each end."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference_lower_bound(new: np.ndarray, old: np.ndarray) -> float:
    """One-sided 95 % lower bound of the accuracy difference new - old on the same images, in [-1, 1].

    `new`, `old`: bool [N], right or wrong. Wald's bound with half an observation added to each cell of the 2 x 2 table
    (Agresti and Min 2005), so that a few images without a difference prove nothing.
    """
    return paired_lower_bound(int((new & ~old).sum()), int((old & ~new).sum()), len(new))


def paired_lower_bound(gained: int, lost: int, n: int) -> float:
    """The same of n images, of which `gained` are right in the new answers alone and `lost` in the old alone."""
    total, plus, minus = n + 2, gained + 0.5, lost + 0.5
    difference = (plus - minus) / total
    return difference - Z_95_ONE_SIDED * sqrt((plus + minus) / total - difference**2) / sqrt(total)


def paired_difference_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy difference on the same n images, of which `gained` speak for and `lost` against
    it, in [-1, 1] (Wald with half an observation in each cell of the 2 x 2 table: Agresti and Min 2005)."""
    total, plus, minus = n + 2, gained + 0.5, lost + 0.5
    difference = (plus - minus) / total
    half = Z_95_TWO_SIDED * sqrt((plus + minus) / total - difference**2) / sqrt(total)
    return max(-1.0, difference - half), min(1.0, difference + half)


def mcnemar_p(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: images that only one of two classifiers gets right (McNemar 1947).

    `gained`: right by the second alone; `lost`: right by the first alone.
    """
    n, fewer = gained + lost, min(gained, lost)
    k = np.arange(1, fewer + 1)
    log_binomials = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])  # of n over 0, 1, ..., fewer
    return float(min(1.0, 2 * np.exp(log_binomials - n * log(2)).sum()))


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top-1 probability, equal-width bins, in [0, 1] (Guo et al. 2017, eq. 3)."""
    confidence, right = probs.max(-1), probs.argmax(-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[index == b].sum() - right[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / max(len(labels), 1))


def negative_log_likelihood(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats; probabilities are clipped at 1e-12."""
    return float(-np.log(np.clip(probs[np.arange(len(labels)), labels], 1e-12, None)).mean())


def percentile(samples: Sequence[float] | np.ndarray, percent: float) -> float:
    """Nearest-rank percentile: the smallest sample that at least `percent` % of the samples do not exceed."""
    return nearest_rank(np.sort(np.asarray(samples)), percent)


def nearest_rank(ordered: np.ndarray, percent: float) -> float:
    """`percentile` of samples that are in ascending order."""
    return float(ordered[max(ceil(percent / 100 * len(ordered)) - 1, 0)])


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts int [C, C], [true][predicted]."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def class_counts(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """(images answered right, images, answers) of each class, int [C] each."""
    return tuple(
        np.bincount(numbers, minlength=classes) for numbers in (labels[labels == predictions], labels, predictions)
    )


def score(predictions: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """How good predictions [N] are, in [0, 1]: accuracy, balanced (mean recall of the classes that labels hold) or
    macro-f1 (mean F1 of the classes that labels or predictions hold)."""
    if metric == "accuracy":
        return float((predictions == labels).mean())
    right, true, predicted = class_counts(labels, predictions, int(max(predictions.max(), labels.max())) + 1)
    if metric == "balanced":
        return float((right[true > 0] / true[true > 0]).mean())
    seen = true + predicted > 0
    return float((2 * right[seen] / (true + predicted)[seen]).mean())


def student_t(p: float, degrees: int) -> float:
    """The two-sided quantile of Student's t: what |t| exceeds with probability `p` in (0, 1), by halving an angle.

    The distribution of tan(angle) is a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 4).
    """
    low, high = 0.0, pi / 2
    while high - low > 1e-12:
        angle = (low + high) / 2
        term, total = cos(angle) if degrees % 2 else 1.0, 0.0
        for k in range(2 + degrees % 2, degrees + 1, 2):  # even degrees: 1 + c^2 / 2 + ..., odd: c + 2 c^3 / 3 + ...
            total += term
            term *= cos(angle) ** 2 * (k - 1) / k
        within = sin(angle) * total if degrees % 2 == 0 else (angle + sin(angle) * total) * 2 / pi
        low, high = (angle, high) if within < 1 - p else (low, angle)
    return sqrt(degrees) * tan(high)


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean and its 95 % interval by Student's t; no interval from a single value."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None
    half = student_t(0.05, n - 1) * float(np.std(values, ddof=1)) / sqrt(n)
    return mean, (mean - half, mean + half)

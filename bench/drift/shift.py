"""Whether field answers are distributed as validation answers are: two tests by exact resampling, numpy only.

Both tests count answers in cells: of the pooled confidences (Kolmogorov-Smirnov), and of the predicted classes (G).
If both sets come from one source, the field's counts are a random choice of the pooled ones, a multivariate
hypergeometric draw, whatever the ties and however small the counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dhox.bench.drift.sample import Answers

DRAWS = 1999
MOST_CELLS = 256  # of confidences; with fewer distinct values the test is exactly Kolmogorov-Smirnov's
ALPHA = 0.05


@dataclass(frozen=True)
class Compared:
    """A test of one thing. `p`: Monte-Carlo, never 0; `expected`: the mean statistic where nothing shifted."""

    statistic: float
    p: float
    expected: float


@dataclass(frozen=True)
class Shift:
    """The tests. `changed`: share of answers that went to other classes; `changed_beyond`: beyond chance. `unlike`:
    None without embeddings."""

    confidence: Compared
    classes: Compared
    changed: float
    changed_beyond: float
    unlike: Compared | None = None

    @property
    def tests(self) -> list[Compared]:
        """All that were made."""
        return [self.confidence, self.classes, *([] if self.unlike is None else [self.unlike])]

    @property
    def alarm(self) -> bool:
        """Whether one of them finds a shift, with at most ALPHA false alarms."""
        return min(holm([test.p for test in self.tests])) <= ALPHA


def find_shift(reference: Answers, field: Answers, rng: np.random.Generator, unlike: Compared | None = None) -> Shift:
    """Both sets of answers, held against each other. `unlike`: the test of embeddings, where there are some."""
    changed = _tested(reference.counts, field.counts, changed_share, rng)
    return Shift(
        confidence_test(reference, field, rng), class_test(reference, field, rng), changed.statistic,
        max(0.0, changed.statistic - changed.expected), unlike,
    )  # fmt: skip


def confidence_test(reference: Answers, field: Answers, rng: np.random.Generator) -> Compared:
    """Kolmogorov-Smirnov: the largest distance of both cumulative distributions of the top probability, in [0, 1]."""
    pooled = np.sort(np.concatenate([reference.confidence, field.confidence]))
    edges = np.unique(pooled[np.linspace(0, len(pooled) - 1, MOST_CELLS).round().astype(int)])
    if len(np.unique(pooled)) <= MOST_CELLS:
        edges = np.unique(pooled)
    old, new = (np.bincount(np.searchsorted(edges, one.confidence), minlength=len(edges)) for one in (reference, field))
    return _tested(old, new, largest_distance, rng)


def class_test(reference: Answers, field: Answers, rng: np.random.Generator) -> Compared:
    """G-test of the predicted classes."""
    return _tested(reference.counts, field.counts, likelihood_ratio, rng)


def share_test(old: int, n_old: int, new: int, n_new: int) -> Compared:
    """Whether a share is larger in the new set: Fisher's exact test, one-sided. `statistic`: the difference."""
    pooled, drawn = old + new, np.arange(max(0, old + new - n_old), min(old + new, n_new) + 1)
    log = _log_binomial(n_new, drawn) + _log_binomial(n_old, pooled - drawn) - _log_binomial(n_old + n_new, pooled)
    p = float(np.exp(log[drawn >= new]).sum())
    return Compared(new / n_new - old / n_old, min(1.0, p), 0.0)


def _log_binomial(n: int, k: np.ndarray | int) -> np.ndarray:
    """log of n over k."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return np.asarray(logs[n] - logs[k] - logs[n - np.asarray(k)])


def _tested(
    old: np.ndarray,
    new: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> Compared:
    """Counts [K] of both sets against DRAWS random divisions of their sum."""
    pooled = old + new
    drawn = rng.multivariate_hypergeometric(pooled, int(new.sum()), DRAWS, method="marginals")
    random = statistic(pooled - drawn, drawn)
    found = float(statistic(old[None], new[None])[0])
    p = (1 + int((random >= found - 1e-12).sum())) / (1 + DRAWS)
    return Compared(found, p, float(random.mean()))


def largest_distance(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Of the cumulative shares of counts [D, K]: [D]."""
    shares = [counts.cumsum(1) / counts.sum(1, keepdims=True) for counts in (old, new)]
    return np.asarray(np.abs(shares[0] - shares[1]).max(1))


def likelihood_ratio(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """G of counts [D, K] against one common distribution: [D]."""
    pooled, total = old + new, old.sum(1, keepdims=True) + new.sum(1, keepdims=True)
    g = np.zeros(len(old))
    for counts in (old, new):
        expected = pooled * counts.sum(1, keepdims=True) / total
        ratio = np.divide(counts, expected, out=np.ones(counts.shape), where=counts > 0)
        g += 2 * (counts * np.log(ratio)).sum(1)
    return g


def changed_share(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Total variation of counts [D, K]: the share of answers that went to other classes, in [0, 1]: [D]."""
    return np.asarray(np.abs(old / old.sum(1, keepdims=True) - new / new.sum(1, keepdims=True)).sum(1) / 2)


def holm(ps: list[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): all below alpha are found, with at most alpha false alarms."""
    order, adjusted, largest = np.argsort(ps, kind="stable"), [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted

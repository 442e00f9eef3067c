"""What answers without labels show of a shift: three signals of a set of answers, as differences to other answers.

The share that passes the thresholds of `class_atc`, the mean confidence, and how far the shares of the predicted
classes are from those of validation. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.bench.drift.estimators import Cut, passed_each
from dhox.bench.drift.sample import Answers


@dataclass(frozen=True, eq=False)
class Summary:
    """Of a set of `n` answers: `passed` and `confidence`, means in [0, 1], and the `shares` of the predicted classes,
    [C]."""

    n: int
    passed: float
    confidence: float
    shares: np.ndarray

    @property
    def chance(self) -> float:
        """Expected squared distance of `shares` to those of all answers that these n were drawn from."""
        return max(0.0, 1.0 - float((self.shares**2).sum())) / max(1, self.n - 1)

    def moved(self, old: Summary, same_images: bool = False) -> np.ndarray:
        """The signals [3] against `old`: passed, confidence (both negative where they fell), and the squared distance
        of the shares.

        What chance makes of that distance is subtracted, so that it is 0 on average where nothing shifted (the unbiased
        estimate of Gretton et al. 2012, lemma 6, with a linear kernel on one-hot vectors); not where both are answers
        to the `same_images`.
        """
        apart = float(((self.shares - old.shares) ** 2).sum())
        if not same_images:
            apart -= self.chance + old.chance
        return np.array([self.passed - old.passed, self.confidence - old.confidence, apart])


@dataclass(frozen=True, eq=False)
class Seen:
    """N answers: how far each passes, [N] in [0, 1], and the answers themselves."""

    passed: np.ndarray
    answers: Answers

    @classmethod
    def of(cls, cuts: list[Cut], answers: Answers) -> Seen:
        """With the thresholds of the classes, [C]."""
        return cls(passed_each(cuts, answers), answers)

    def summary(self, weights: np.ndarray | None = None) -> Summary:
        """Of all answers; `weights`: how much each counts, [N], at least one above 0."""
        answers, n = self.answers, len(self.answers)
        weight = np.full(n, 1 / n) if weights is None else weights / weights.sum()
        shares = np.bincount(answers.predicted, weight, answers.classes)
        return Summary(n, float(weight @ self.passed), float(weight @ answers.confidence), shares)

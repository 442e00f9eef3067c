"""Accuracy without labels: what validation says of answers as sure as the field's are (numpy only).

- **ATC** (Garg et al. 2022): the share of field answers above the threshold that as many validation answers pass as
  are right. `class_atc` has a threshold for each predicted class.
- **DoC** (Guillory et al. 2021): validation accuracy minus what the mean confidence fell by.
- `class_weights` (Lipton et al. 2018; EM of Saerens et al. 2002): how often each true class is in the field, as far as
  the predicted classes tell; validation weighted by it stands for a field whose class shares alone are other ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.bench.drift.sample import Answers, Reference

FEWEST_OF_CLASS = 20  # answers or labels of a class, from which on it has a threshold, or a weight, of its own
EM_STEPS = 200


@dataclass(frozen=True)
class Cut:
    """Answers above `value` count as right, of those that equal it the share `at`."""

    value: float
    at: float

    def passed(self, ordered: np.ndarray) -> float:
        """How many confidences, in ascending order, count as right."""
        first, last = np.searchsorted(ordered, self.value, "left"), np.searchsorted(ordered, self.value, "right")
        return float(len(ordered) - last + self.at * (last - first))

    def each(self, confidence: np.ndarray) -> np.ndarray:
        """How far each confidence [N] counts as right: 0, 1, or `at`."""
        return np.asarray((confidence > self.value) + self.at * (confidence == self.value))


def cut(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray) -> Cut:
    """The cut that passes, by weight, the same share of these answers [N] as are right; between two values where it
    can be, so that rounding moves nobody across."""
    values, cells = np.unique(confidence, return_inverse=True)
    mass = np.bincount(cells, weights, len(values))
    wanted, at_least = float(weights[right].sum()), mass[::-1].cumsum()[::-1]  # passed if the value itself passes
    if wanted <= 0:
        return Cut(np.inf, 0.0)
    place = int(np.flatnonzero(at_least >= wanted * (1 - 1e-12))[-1])
    above = float(at_least[place] - mass[place])
    share = (wanted - above) / float(mass[place])
    if share < 1 - 1e-9 or place == 0:
        return Cut(float(values[place]), min(1.0, share))
    return Cut(float(values[place - 1] + values[place]) / 2, 1.0)


@dataclass(frozen=True, eq=False)
class FieldOrder:
    """Field confidences in ascending order, all of them and by predicted class."""

    all: np.ndarray
    of_class: list[np.ndarray]

    @classmethod
    def of(cls, field: Answers) -> FieldOrder:
        """Sort once, for many cuts."""
        order = np.lexsort((field.confidence, field.predicted))
        parts = np.split(field.confidence[order], field.counts.cumsum()[:-1])
        return cls(np.sort(field.confidence), parts)


def atc(reference: Reference, field: FieldOrder) -> float:
    """Average thresholded confidence, in [0, 1]."""
    right = reference.right
    return cut(reference.confidence, right, np.ones(len(right))).passed(field.all) / len(field.all)


def doc(reference: Reference, mean_confidence: float) -> float:
    """Difference of confidences, in [0, 1]; `mean_confidence`: of the field."""
    found = float(reference.right.mean() - reference.confidence.mean()) + mean_confidence
    return min(1.0, max(0.0, found))


def class_atc(reference: Reference, field: FieldOrder, weights: np.ndarray | None = None) -> np.ndarray:
    """How many field answers of each predicted class count as right, float [C].

    `weights`: of true classes, [C] (see `class_weights`).
    """
    cuts = class_cuts(reference, weights)
    return np.array([one.passed(part) for one, part in zip(cuts, field.of_class, strict=True)])


def class_cuts(reference: Reference, weights: np.ndarray | None = None) -> list[Cut]:
    """The threshold of each predicted class, [C]. Rare classes share one (see `with_rare`)."""
    right, rare = reference.right, with_rare(reference.counts)
    weight = np.ones(len(right)) if weights is None else weights[reference.labels] + 1e-9

    def of(images: np.ndarray) -> Cut:
        return cut(reference.confidence[images], right[images], weight[images])

    among = np.flatnonzero(rare[reference.predicted])
    shared = of(among) if len(among) else Cut(np.inf, 0.0)
    by_class = np.split(np.argsort(reference.predicted, kind="stable"), reference.counts.cumsum()[:-1])
    return [shared if rare[place] else of(images) for place, images in enumerate(by_class)]


def passed_each(cuts: list[Cut], answers: Answers) -> np.ndarray:
    """How far each answer counts as right, in [0, 1], float [N]."""
    passed = np.zeros(len(answers))
    for place in np.flatnonzero(answers.counts):
        own = answers.predicted == place
        passed[own] = cuts[place].each(answers.confidence[own])
    return passed


def with_rare(counts: np.ndarray) -> np.ndarray:
    """Which classes share a threshold, bool [C]: those with fewer than FEWEST_OF_CLASS answers, and the next ones until
    they have so many together. `counts`: of the validation answers, int [C]."""
    order = np.argsort(counts, kind="stable")
    before = counts[order].cumsum() - counts[order]  # answers of all rarer classes
    rare = np.zeros(len(counts), bool)
    rare[order] = (counts[order] < FEWEST_OF_CLASS) | (before < FEWEST_OF_CLASS) & (counts.min() < FEWEST_OF_CLASS)
    return rare


def class_weights(reference: Reference, counts: np.ndarray) -> np.ndarray | None:
    """Share of each true class in the field over its share in validation, float [C]; None where a class has too few
    validation labels to know its answers. `counts`: of the field's predicted classes, int [C]."""
    classes, true = reference.classes, np.bincount(reference.labels, minlength=reference.classes)
    if true.min() < FEWEST_OF_CLASS:
        return None
    answers = np.zeros((classes, classes))  # [predicted, true]
    np.add.at(answers, (reference.predicted, reference.labels), 1.0)
    answers /= true
    known, seen = true / true.sum(), counts / counts.sum()
    shares = known.copy()
    for _ in range(EM_STEPS):
        mixed = answers @ shares
        shares = shares * (answers.T @ np.divide(seen, mixed, out=np.zeros(classes), where=mixed > 0))
        shares /= max(float(shares.sum()), 1e-12)
    return np.asarray(shares / known)


def explained(reference: Reference, weights: np.ndarray, field: Answers) -> float:
    """p of Kolmogorov and Smirnov for field confidences against validation ones, weighted by true class.

    By their asymptotic distribution with the effective number of validation images (Stephens 1970). Small: other class
    shares are not all that changed.
    """
    order = np.argsort(reference.confidence)
    weight = weights[reference.labels][order]
    points = np.concatenate([reference.confidence, field.confidence])
    ordered = reference.confidence[order]
    old = np.concatenate([[0.0], weight.cumsum() / weight.sum()])[np.searchsorted(ordered, points, "right")]
    new = np.searchsorted(np.sort(field.confidence), points, "right") / len(field)
    effective = weight.sum() ** 2 / (weight**2).sum()
    n = np.sqrt(effective * len(field) / (effective + len(field)))
    scaled = (n + 0.12 + 0.11 / n) * np.abs(old - new).max()
    if scaled < 0.2:  # the series does not converge there, and p is 1
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2)).sum(), 0, 1))

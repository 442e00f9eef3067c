"""Accuracy without labels, learned from altered validation images: what `dhox export --rehearse-drift` answered.

As in AutoEval (Deng and Zheng 2021, "Are Labels Always Necessary for Classifier Accuracy Evaluation?"), accuracy is
regressed on what a set of answers shows without labels, over sets whose labels are known: here the labelled validation
images, altered in many ways, and with other class shares. The regression is a Gaussian process (Rasmussen and Williams
2006). Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dhox.artefacts.rehearsal import UNALTERED, Rehearsal
from dhox.bench.drift.estimators import Cut, class_cuts
from dhox.bench.drift.sample import Answers, Reference, rounded
from dhox.bench.drift.signals import Seen

DRAWS = 500  # of the bootstrap
# Chosen on the development shifts of benchmarks/drift.py with --hold-out; neighbouring values do as well.
NOISE = 0.03  # of a rehearsed change of accuracy: what the signals do not tell of it
LENGTH = 1.5  # of the kernel, times the root of the number of signals
DIRICHLET = (3.0, 1.0, 1.0, 0.3) * 2  # other class shares to learn from, like and most unlike those of validation
JUDGED = 1.0  # the same, of altered rows
SMALL = 0.125  # see `size`


@dataclass(frozen=True, eq=False)
class Regression:
    """A Gaussian process of mean 0 over K rows of `signals` [K, S], in standard deviations (`scale`, [S]).

    The kernel is `variance` (exp(-|x - x'|^2 / (2 LENGTH^2 S)) + x.x'/S): local where rows are near, linear beyond.
    `weights`: (K + NOISE^2 I)^-1 y (Rasmussen and Williams 2006, eq. 2.25).
    """

    signals: np.ndarray
    scale: np.ndarray
    variance: float
    weights: np.ndarray

    @classmethod
    def fit(cls, signals: np.ndarray, changes: np.ndarray) -> Regression:
        """To `changes` of accuracy, [K]. A signal that no row moves says nothing."""
        spread = signals.std(0)
        scale = np.where(spread > 1e-9, spread, np.inf)
        blank = cls(signals / scale, scale, float(changes.var()), np.zeros(len(changes)))
        covariance = blank.kernel(blank.signals) + NOISE**2 * np.eye(len(changes))
        return cls(blank.signals, scale, blank.variance, np.linalg.solve(covariance, changes))

    def kernel(self, scaled: np.ndarray) -> np.ndarray:
        """Of scaled signals [Q, S] with the rows: [Q, K]."""
        size = scaled.shape[1]
        square = ((scaled[:, None] - self.signals[None]) ** 2).sum(2)
        near = np.exp(-square / (2 * LENGTH**2 * size))
        return np.asarray(self.variance * (near + scaled @ self.signals.T / size))

    def predict(self, signals: np.ndarray) -> np.ndarray:
        """The mean at signals [Q, S]: [Q]."""
        return np.asarray(self.kernel(signals / self.scale) @ self.weights)


@dataclass(frozen=True, eq=False)
class Learned:
    """What each of K rows showed, `signals` [K, S], and what it cost: `changes` of accuracy to the unaltered images,
    [K], negative where it fell. `kinds`: of alterations, [K]; rows that differ in class shares alone are UNALTERED.
    `seen`: which rows the regression learns from, bool [K]; the others only judge it."""

    kinds: np.ndarray
    signals: np.ndarray
    changes: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, cuts: list[Cut], rehearsal: Rehearsal) -> Learned:
        """From a rehearsal, with the thresholds of the classes, [C]: every row as it is, the unaltered one also with
        other class shares, and to judge, every altered one with other class shares too."""
        answers = [Seen.of(cuts, one) for one in altered_answers(rehearsal, len(cuts))]
        places = range(len(answers))
        plain = [(place, np.ones(len(rehearsal.labels))) for place in places]
        shares = other_shares(rehearsal.labels, len(cuts), [*DIRICHLET, *[JUDGED] * (len(answers) - 1)])
        rows = [*plain, *zip([0] * len(DIRICHLET) + [*places[1:]], shares, strict=True)]
        first = answers[0].summary()
        signals = [answers[place].summary(weights).moved(first, same_images=True) for place, weights in rows]
        right = [float(np.average(rehearsal.right[place], weights=weights)) for place, weights in rows]
        seen = np.arange(len(rows)) < len(plain) + len(DIRICHLET)
        kinds = np.array([rehearsal.kinds[place] for place, _ in rows])
        return cls(kinds, np.stack(signals), np.array(right) - right[0], seen)

    def fit(self, but: str | None = None) -> Regression:
        """The regression over the rows to learn from, without those of a kind."""
        rows = self.seen & (self.kinds != but)
        return Regression.fit(self.signals[rows], self.changes[rows])

    def errors(self) -> np.ndarray:
        """True less predicted change of every altered row, by a regression that saw no row of its kind, as multiples
        of `size` of the predicted one."""
        found = []
        for kind in dict.fromkeys(self.kinds[self.kinds != UNALTERED].tolist()):
            own = self.kinds == kind
            predicted = self.fit(but=kind).predict(self.signals[own])
            found.append((self.changes[own] - predicted) / size(predicted))
        return np.concatenate(found)


def size(change: np.ndarray) -> np.ndarray:
    """What an error is measured against: larger changes are predicted less exactly."""
    return np.asarray(SMALL + np.abs(change))


def altered_answers(rehearsal: Rehearsal, classes: int) -> list[Answers]:
    """Every row of a rehearsal, as answers of `dhox predict` are."""
    rows = zip(rehearsal.confidence, rehearsal.predicted, strict=True)
    return [Answers(rounded(confidence), predicted, classes) for confidence, predicted in rows]


def other_shares(labels: np.ndarray, classes: int, alphas: Sequence[float]) -> list[np.ndarray]:
    """Weights of images, [N], that give their true classes other shares; the same ones each time."""
    rng = np.random.default_rng(0)
    return [rng.dirichlet(np.full(classes, alpha))[labels] + 1e-9 for alpha in alphas]


@dataclass(frozen=True, eq=False)
class Regressed:
    """The estimated `accuracy`, in [0, 1]; `drawn` from the bootstrap, [DRAWS]; `below`, `above`: what the method is
    off by, 95 %, under and over the estimate."""

    accuracy: float
    drawn: np.ndarray
    below: float
    above: float


def regressed(reference: Reference, field: Answers, rehearsal: Rehearsal, rng: np.random.Generator) -> Regressed:
    """The estimate for a field. The bootstrap draws field images and the reference's right answers again, with the
    thresholds as they are."""
    cuts = class_cuts(reference)
    learned = Learned.of(cuts, rehearsal)
    regression = learned.fit()
    seen, old = Seen.of(cuts, field), Seen.of(cuts, reference).summary()
    right, n = float(reference.right.mean()), len(field)
    change = regression.predict(seen.summary().moved(old)[None])[0]
    again = [seen.summary(np.bincount(rng.integers(0, n, n), minlength=n)).moved(old) for _ in range(DRAWS)]
    changes = regression.predict(np.stack(again))
    changes += change - changes.mean()  # images that are drawn twice look like a shift
    accuracies = rng.binomial(len(reference), right, DRAWS) / len(reference)
    low, high = np.quantile(learned.errors(), [0.025, 0.975]) * size(change)
    return Regressed(
        accuracy=float(np.clip(right + change, 0, 1)),
        drawn=np.clip(accuracies + changes, 0, 1),
        below=max(0.0, -float(low)),
        above=max(0.0, float(high)),
    )

"""The headline: how accurate an export is on field images, estimated without labels, with an interval."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dhox.artefacts.drift import Method
from dhox.artefacts.rehearsal import Rehearsal
from dhox.bench.drift.estimators import FieldOrder, atc, class_atc, class_weights, doc, explained
from dhox.bench.drift.rehearsed import Regressed, regressed
from dhox.bench.drift.sample import Answers, Reference
from dhox.bench.drift.shift import ALPHA, Shift

DRAWS = 500  # of the bootstrap
# What an estimate is off by beyond sampling where a shift was found, below and above it: a constant, and a multiple of
# the share of answers that went to other classes, added as squares. Chosen on the development shifts of
# benchmarks/drift.py, so that 95 % of them are covered (docs/drift.md).
MODEL_ERROR_BELOW, MODEL_ERROR_ABOVE = (0.04, 0.5), (0.02, 0.1)


@dataclass(frozen=True)
class Estimated:
    """Accuracies in [0, 1]. `reweighted`: validation was weighted to the class shares of the field.

    `sampling`: the 95 % interval of the bootstrap over validation and field; `interval`: the same, wider by what such
    estimates were off by on shifted images. `drop`: of accuracy to validation, in points; `drop_bound`: its one-sided
    95 % bound, of sampling alone. `of_class`: answers of each class that count as right, float [C]. `method`: what
    `accuracy` rests on.
    """

    accuracy: float
    sampling: tuple[float, float]
    interval: tuple[float, float]
    drop: float
    drop_bound: float
    atc: float
    doc: float
    reweighted: bool
    of_class: np.ndarray
    method: Method = "atc-by-class"


def estimate(
    reference: Reference, field: Answers, shift: Shift, rng: np.random.Generator, rehearsal: Rehearsal | None = None
) -> Estimated:
    """By the rehearsal of the export, where it has one, a test finds a shift, and other class shares alone do not
    explain it; else by `class_atc`."""
    found = by_class(reference, field, shift, rng)
    if rehearsal is None or not shift.alarm or found.reweighted:
        return found
    return by_rehearsal(found, reference, field, regressed(reference, field, rehearsal, rng))


def by_rehearsal(found: Estimated, reference: Reference, field: Answers, held: Regressed) -> Estimated:
    """An estimate by `class_atc`, with the headline and all that rests on it taken from the rehearsal."""
    accuracy, known = held.accuracy, float(reference.right.mean())
    low, lowest, high = (float(value) for value in np.quantile(held.drawn, [0.025, 0.05, 0.975]))
    sampling = (min(low, accuracy), max(high, accuracy))
    return replace(
        found, accuracy=accuracy, sampling=sampling, interval=widened(accuracy, sampling, held.below, held.above),
        drop=100 * (known - accuracy), drop_bound=100 * (known - min(accuracy, lowest)),
        of_class=scaled(found.of_class, field.counts, accuracy), method="rehearsed",
    )  # fmt: skip


def widened(accuracy: float, sampling: tuple[float, float], below: float, above: float) -> tuple[float, float]:
    """An interval of sampling, wider by the error of the method below and above, added as squares, in [0, 1]."""
    return (
        max(0.0, accuracy - float(np.hypot(accuracy - sampling[0], below))),
        min(1.0, accuracy + float(np.hypot(sampling[1] - accuracy, above))),
    )


def scaled(of_class: np.ndarray, counts: np.ndarray, accuracy: float) -> np.ndarray:
    """Right answers of each class, float [C], so that they come to `accuracy` of all: fewer right ones in every class
    alike, or fewer wrong ones. `counts`: all answers, int [C]."""
    right, n = float(of_class.sum()), float(counts.sum())
    wanted = accuracy * n
    if wanted <= right:
        return of_class * (wanted / right if right else 0.0)
    return np.asarray(counts - (counts - of_class) * (n - wanted) / (n - right))


def by_class(reference: Reference, field: Answers, shift: Shift, rng: np.random.Generator) -> Estimated:
    """The estimate by `class_atc`. Where class shares shifted, and explain the confidences too (p above ALPHA),
    validation is weighted to them."""
    order, counts = FieldOrder.of(field), field.counts
    weights = class_weights(reference, counts) if shift.classes.p <= ALPHA else None
    reweighted = weights is not None and explained(reference, weights, field) > ALPHA
    of_class = class_atc(reference, order, weights if reweighted else None)
    accuracy, known = float(of_class.sum() / len(field)), float(reference.right.mean())
    drawn, drops = np.zeros(DRAWS), np.zeros(DRAWS)
    for number in range(DRAWS):
        again = reference.of(rng.integers(0, len(reference), len(reference)))
        weight = class_weights(again, rng.multinomial(len(field), counts / len(field))) if reweighted else None
        passed = class_atc(again, order, weight).sum() / len(field)
        drawn[number] = rng.binomial(len(field), min(1.0, max(0.0, passed))) / len(field)
        drops[number] = again.right.mean() - drawn[number]
    low, high = (float(value) for value in np.quantile(drawn, [0.025, 0.975]))
    sampling = (min(low, accuracy), max(high, accuracy))
    below, above = (
        float(np.hypot(constant, multiple * shift.changed_beyond)) if shift.alarm else 0.0
        for constant, multiple in (MODEL_ERROR_BELOW, MODEL_ERROR_ABOVE)
    )
    return Estimated(
        accuracy=accuracy,
        sampling=sampling,
        interval=widened(accuracy, sampling, below, above),
        drop=100 * (known - accuracy),
        drop_bound=100 * max(known - accuracy, float(np.quantile(drops, 0.95))),
        atc=atc(reference, order),
        doc=doc(reference, float(field.confidence.mean())),
        reweighted=reweighted,
        of_class=of_class,
    )

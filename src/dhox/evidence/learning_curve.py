"""Whether a student was trained long enough, from its validation accuracy over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.evidence.statistics import student_t

FEWEST_EPOCHS = 8  # of which the second half, at least four, make the slope
DOUBLING = (1.0, 2.5)  # what twice the steps gave, as a multiple of the slope (benchmarks/longer_training.py)


@dataclass(frozen=True)
class Slope:
    """How fast validation accuracy rose at the end: points per doubling of the steps, with its 95 % interval."""

    points: float
    interval: tuple[float, float]

    @property
    def rising(self) -> bool:
        """Whether it rose beyond its own scatter."""
        return self.interval[0] > 0

    @property
    def twice(self) -> tuple[float, float]:
        """Points that a training of twice the steps would likely add, from the least to the most that it did in the
        benchmark for such a slope."""
        return DOUBLING[0] * self.points, DOUBLING[1] * self.points


def slope_at_the_end(accuracies: list[float]) -> Slope | None:
    """The slope of validation accuracy [E], one value in [0, 1] per epoch; None of fewer than eight epochs.

    Least squares over the logarithm of the epoch, on the second half of the epochs, with Student's t for the interval.
    The learning rate falls to 0 there, so the slope says less than trainings of several lengths would.
    """
    n = len(accuracies)
    if n < FEWEST_EPOCHS:
        return None
    epochs = np.arange(n // 2, n) + 1
    x, y = np.log2(epochs), 100 * np.array(accuracies[n // 2 :])
    centred = x - x.mean()
    points = float(centred @ y / (centred @ centred))
    scatter = y - y.mean() - points * centred
    error = float(np.sqrt(scatter @ scatter / (len(x) - 2) / (centred @ centred)))
    reach = student_t(0.05, len(x) - 2) * error
    return Slope(points, (points - reach, points + reach))

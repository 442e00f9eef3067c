"""Choosing alpha and beta on validation logits: DESIGN's rules, numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.artefacts.common import Metric
from dhox.artefacts.logits import Logits
from dhox.artefacts.selection import Grid
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA
from dhox.evidence.statistics import negative_log_likelihood, score, softmax

ALPHAS = tuple(round(0.05 * i, 2) for i in range(21))
BETAS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
FEWEST_IMAGES = 50  # below, (0.4, 0.5) stays


@dataclass(frozen=True)
class Chosen:
    """alpha weights the CE head; beta is the KD head's temperature. `grid`: what the search saw, None without one."""

    alpha: float
    beta: float
    grid: Grid | None

    @property
    def searched(self) -> bool:
        """Whether labels chose."""
        return self.grid is not None


def choose_of(val: Logits, metric: Metric) -> Chosen:
    """alpha and beta by these images."""
    return choose_alpha_beta(val.ce_logits, val.kd_logits, val.labels, metric)


def choose_alpha_beta(
    ce_logits: np.ndarray, kd_logits: np.ndarray, labels: np.ndarray, metric: Metric = "accuracy"
) -> Chosen:
    """Maximise the metric (see dhox.evidence.statistics.score) of the top-1 answers over the grid.

    Ties go to the lower NLL, then to the point nearest to (0.4, 0.5). Logits [N, C], labels [N].
    With fewer than FEWEST_IMAGES images nothing is searched: (0.4, 0.5).
    """
    if len(labels) < FEWEST_IMAGES:
        return Chosen(FIXED_ALPHA, FIXED_BETA, None)
    grid = np.zeros((len(ALPHAS), len(BETAS)))
    ranked = []
    ce_probs = softmax(ce_logits)
    for column, beta in enumerate(BETAS):
        kd_probs = softmax(kd_logits / beta)
        for row, alpha in enumerate(ALPHAS):
            probs = alpha * ce_probs + (1 - alpha) * kd_probs
            reached = round(score(probs.argmax(-1), labels, metric), 12)
            distance = (alpha - FIXED_ALPHA) ** 2 + (beta - FIXED_BETA) ** 2
            ranked.append((-reached, round(negative_log_likelihood(probs, labels), 6), distance, alpha, beta))
            grid[row, column] = reached
    *_, alpha, beta = min(ranked)
    return Chosen(alpha, beta, Grid([*ALPHAS], [*BETAS], grid.tolist()))

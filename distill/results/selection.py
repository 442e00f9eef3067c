"""Choosing alpha and beta on validation logits: DESIGN's rules, numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from dhox.artefacts.common import Metric
from dhox.artefacts.logits import Logits
from dhox.artefacts.selection import Grid
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA
from dhox.evidence.statistics import score, softmax

ALPHAS = tuple(round(0.05 * i, 2) for i in range(21))
BETAS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)
FEWEST_IMAGES = 50  # below, (0.4, 0.5) stays
CHUNK = 1 << 17  # probabilities at a time


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
    answers, likelihood = _over_the_grid(ce_logits, kd_logits, labels)
    grid = np.zeros((len(ALPHAS), len(BETAS)))
    ranked = []
    for (row, alpha), (column, beta) in product(enumerate(ALPHAS), enumerate(BETAS)):
        reached = round(score(answers[row, column], labels, metric), 12)
        nll = round(float(-np.log(np.clip(likelihood[row, column], 1e-12, None)).mean()), 6)
        distance = (alpha - FIXED_ALPHA) ** 2 + (beta - FIXED_BETA) ** 2
        ranked.append((-reached, nll, distance, alpha, beta))
        grid[row, column] = reached
    *_, alpha, beta = min(ranked)
    return Chosen(alpha, beta, Grid([*ALPHAS], [*BETAS], grid.tolist()))


def _over_the_grid(ce_logits: np.ndarray, kd_logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 answers int [alphas, betas, N] of DHO inference (eq. 8), and the probabilities of the labels.

    By so many images at a time as stay in the processor's cache: all at once would be N x C doubles several times.
    """
    n, classes = ce_logits.shape
    answers, likelihood = np.empty((len(ALPHAS), len(BETAS), n), np.int64), np.empty((len(ALPHAS), len(BETAS), n))
    size = max(1, CHUNK // classes)
    for images in (slice(start, start + size) for start in range(0, n, size)):
        ce_probs, of_label = softmax(ce_logits[images]), (np.arange(len(labels[images])), labels[images])
        for column, beta in enumerate(BETAS):
            kd_probs = softmax(kd_logits[images] / beta)
            for row, alpha in enumerate(ALPHAS):
                probs = alpha * ce_probs + (1 - alpha) * kd_probs
                answers[row, column, images] = probs.argmax(-1)
                likelihood[row, column, images] = probs[of_label]
    return answers, likelihood

"""The two heads' arithmetic on logits: DHO inference and the rules of the fold (numpy only)."""

from __future__ import annotations

import numpy as np

from dhox.evidence.statistics import softmax

FIXED_ALPHA, FIXED_BETA = 0.4, 0.5  # the paper's heuristic for a zero-shot teacher (arXiv 2505.07675, table 7)


def dho_probs(ce_logits: np.ndarray, kd_logits: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """DHO inference, eq. 8 of arXiv 2505.07675: alpha softmax(ce) + (1 - alpha) softmax(kd / beta), [N, C]."""
    return alpha * softmax(ce_logits) + (1 - alpha) * softmax(kd_logits / beta)


def linear_probs(ce_logits: np.ndarray, kd_logits: np.ndarray, c_ce: float, c_kd: float) -> np.ndarray:
    """The linear fold, a log-linear pool: softmax(c_ce ce + c_kd kd), [N, C]."""
    return softmax(c_ce * ce_logits + c_kd * kd_logits)

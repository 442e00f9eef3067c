from __future__ import annotations

import numpy as np
import pytest

from dhox.distill.results.selection import ALPHAS, BETAS, choose_alpha_beta
from dhox.evidence.dho_inference import dho_probs


def logits(n: int, seed: int, right: float, labels: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(seed)
    out = random.normal(0, 1, (n, 4))
    out[np.arange(n), labels] += np.where(random.random(n) < right, 3, -1)
    return out.astype(np.float32)


def test_the_chosen_point_is_the_best_of_the_grid() -> None:
    labels = np.arange(400) % 4
    ce, kd = logits(400, 0, 0.6, labels), logits(400, 1, 0.7, labels)
    chosen = choose_alpha_beta(ce, kd, labels)
    accuracy = np.array(chosen.grid.score)
    assert accuracy.shape == (len(ALPHAS), len(BETAS))
    assert chosen.searched
    here = (dho_probs(ce, kd, chosen.alpha, chosen.beta).argmax(-1) == labels).mean()
    assert here == pytest.approx(accuracy.max())
    for row, column in ((0, 0), (7, 3), (20, 8)):
        there = (dho_probs(ce, kd, ALPHAS[row], BETAS[column]).argmax(-1) == labels).mean()
        assert accuracy[row, column] == pytest.approx(there)


def test_equal_heads_tie_and_the_lower_nll_wins() -> None:
    labels = np.arange(200) % 4
    same = logits(200, 2, 0.8, labels)
    chosen = choose_alpha_beta(same, same, labels)
    assert len(set(np.array(chosen.grid.score).ravel())) == 1
    nll = {(a, b): -np.log(dho_probs(same, same, a, b)[np.arange(200), labels]).mean() for a in ALPHAS for b in BETAS}
    assert nll[chosen.alpha, chosen.beta] == pytest.approx(min(nll.values()), abs=1e-6)


def test_the_metric_decides_where_classes_are_unbalanced() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(300) < 0.1).astype(int)
    ce = np.stack([np.full(300, 0.6), np.zeros(300)], 1)  # always class 0: right nine times of ten
    kd = np.stack([np.zeros(300), np.where(random.random(300) < 0.7, labels, 1 - labels) * 2.0 - 1], 1)
    best = choose_alpha_beta(ce, kd, labels)
    balanced = choose_alpha_beta(ce, kd, labels, "balanced")
    assert (dho_probs(ce, kd, best.alpha, best.beta).argmax(-1) == 0).all()
    assert (dho_probs(ce, kd, balanced.alpha, balanced.beta).argmax(-1) == 1).any()


def test_forty_nine_images_search_nothing_and_fifty_do() -> None:
    labels = np.arange(50) % 4
    ce, kd = logits(50, 0, 0.9, labels), logits(50, 1, 0.2, labels)
    few = choose_alpha_beta(ce[:49], kd[:49], labels[:49])
    assert (few.alpha, few.beta, few.searched, few.grid) == (0.4, 0.5, False, None)
    assert choose_alpha_beta(ce, kd, labels).searched

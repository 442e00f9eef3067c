"""The fold's algebra over random heads of any kind, type and number of classes."""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.heads import Heads
from dhox.artefacts.logits import HeadLogits
from dhox.artefacts.manifest import Fold
from dhox.distill.students.kd_head import KD_HEADS
from dhox.evidence.statistics import softmax
from dhox.export.folding.fold import coefficients, fold_probs, harmonic_mean
from dhox.export.folding.head_weights import head_weights
from dhox.export.graphs.graph import folded_head
from dhox.export.retuning.proof import probs_of_features

FEATURES = 6
ALPHA = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
BETA = st.floats(0.1, 4)
R = st.one_of(st.sampled_from([0.0, inf]), st.floats(0, 200))
TAU = st.floats(0.1, 20)
HEADS = st.builds(
    lambda seed, classes, dtype, kind: random_heads(seed, classes, dtype, kind),
    st.integers(0, 2**20), st.integers(2, 50), st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from(KD_HEADS),
)  # fmt: skip


def random_heads(seed: int, classes: int, dtype: str, kind: str) -> Heads:
    random = np.random.default_rng(seed)
    scale = 1.0 if kind == "linear" else 5.0
    shapes = [(1, (classes, FEATURES)), (1, (classes,)), (scale, (classes, FEATURES)), (scale, (classes,))]
    parts = [random.normal(0, spread, shape).astype(dtype) for spread, shape in shapes]
    if kind == "cosine-paper":
        parts[3][:] = 0
    return Heads(*parts, np.array(kind))


def features(n: int = 24) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.normal(0, 1, (n, FEATURES)) * random.uniform(0.2, 5, (n, 1))).astype(np.float32)


def logits_of(heads: Heads, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(CE, KD) logits by the definition of the heads, float64."""
    ce_weight, ce_bias, kd_weight, kd_bias = (
        part.astype(np.float64) for part in (heads.ce_weight, heads.ce_bias, *heads.kd)
    )
    z = z.astype(np.float64)
    u = z / np.linalg.norm(z, axis=1, keepdims=True) if heads.cosine else z
    return z @ ce_weight.T + ce_bias, u @ kd_weight.T + kd_bias


def answer(heads: Heads, fold: Fold, z: np.ndarray) -> np.ndarray:
    head = folded_head(heads, fold)
    with torch.inference_mode():
        probs: np.ndarray = head(torch.from_numpy(z)).numpy()
    assert probs.dtype == np.float32
    return probs


def rounding(*logits: np.ndarray) -> float:
    """What float32 may lose in a probability of logits of this size."""
    return 4e-6 * max(1.0, *(float(abs(part).max()) for part in logits))


def margin(logits: np.ndarray) -> np.ndarray:
    ordered = np.sort(logits, -1)
    gap: np.ndarray = ordered[:, -1] - ordered[:, -2]
    return gap


@given(heads=HEADS, alpha=ALPHA, beta=BETA)
def test_exact_and_kept_heads_are_the_mixture(heads: Heads, alpha: float, beta: float) -> None:
    z = features()
    ce, kd = logits_of(heads, z)
    mixture = alpha * softmax(ce) + (1 - alpha) * softmax(kd / beta)
    for rule in ("exact", "heads"):
        fold = Fold(rule, alpha, beta)
        assert abs(answer(heads, fold, z) - mixture).max() <= rounding(ce, kd / beta)
        assert all(part.dtype == np.float32 for part in head_weights(heads, fold).values())
    assert abs(probs_of_features(z, heads, Fold("exact", alpha, beta)) - mixture).max() < 1e-9


@given(heads=HEADS, r=R, tau=TAU)
def test_linear_is_one_softmax_of_the_pooled_logits(heads: Heads, r: float, tau: float) -> None:
    z = features()
    ce, kd = logits_of(heads, z)
    c_ce, c_kd = coefficients(r, tau)
    fold = Fold("linear", 0.5, 1.0, c_ce, c_kd)
    pooled = c_ce * ce + c_kd * kd
    assert abs(answer(heads, fold, z) - softmax(pooled)).max() <= rounding(c_ce * ce, c_kd * kd)
    assert abs(probs_of_features(z, heads, fold) - softmax(pooled)).max() < 1e-9
    rows, width = head_weights(heads, fold)["linear.weight"].shape
    assert (rows, width) == (len(heads.ce_bias), FEATURES * (2 if heads.cosine else 1))


@given(heads=HEADS, r=R, tau=TAU)
def test_plain_is_the_pool_with_one_number_for_every_norm(heads: Heads, r: float, tau: float) -> None:
    z = features()
    z_norm = harmonic_mean(np.linalg.norm(z, axis=1))
    c_ce, c_kd = coefficients(r, tau)
    fold = Fold("linear", 0.5, 1.0, c_ce, c_kd, z_norm=z_norm)
    ce, _ = logits_of(heads, z)
    kd = z.astype(np.float64) / z_norm @ heads.kd[0].astype(np.float64).T + heads.kd[1].astype(np.float64)
    pooled = c_ce * ce + c_kd * kd
    assert head_weights(heads, fold)["linear.weight"].shape == (len(heads.ce_bias), FEATURES)
    assert abs(answer(heads, fold, z) - softmax(pooled)).max() <= rounding(c_ce * ce, c_kd * kd)
    if heads.cosine:  # from stored logits, with an offset that all classes of an image share
        ce, kd = logits_of(heads, z)
        val = HeadLogits(
            ce_logits=ce, kd_logits=kd + np.arange(len(z))[:, None] + 3.0,
            z_norms=np.linalg.norm(z.astype(np.float64), axis=1), kd_bias=heads.kd[1].astype(float) + 3,
        )  # fmt: skip
        assert abs(fold_probs(val, fold) - softmax(pooled)).max() < 1e-9


@given(heads=HEADS, alpha=ALPHA, beta=BETA, r=R, tau=TAU)
def test_where_both_heads_agree_with_a_margin_every_fold_agrees(
    heads: Heads, alpha: float, beta: float, r: float, tau: float
) -> None:
    z = features(64)
    ce, kd = logits_of(heads, z)
    label = ce.argmax(-1)
    sure = (kd.argmax(-1) == label) & (np.minimum(margin(ce), margin(kd)) > 1e-2)
    c_ce, c_kd = coefficients(r, tau)
    folds = [Fold("exact", alpha, beta), Fold("linear", alpha, beta, c_ce, c_kd)]
    if not heads.kd[1].any():
        folds.append(Fold("linear", alpha, beta, c_ce, c_kd, z_norm=2.0))
    for fold in folds:
        assert np.array_equal(probs_of_features(z, heads, fold).argmax(-1)[sure], label[sure])
        probs = answer(heads, fold, z)
        top = probs.max(-1)
        assert (probs[np.arange(64), label] >= top)[sure].all()  # in float32 sure answers may tie at 1


@given(heads=HEADS, r=R, tau=TAU, other=TAU)
def test_tau_moves_no_label(heads: Heads, r: float, tau: float, other: float) -> None:
    z = features(64)
    ce, kd = logits_of(heads, z)
    pooled = kd if r == inf else ce + r * kd
    sure = margin(pooled) > 1e-6 * abs(pooled).max()
    first, second = (
        probs_of_features(z, heads, Fold("linear", 0.5, 1.0, *coefficients(r, t))).argmax(-1) for t in (tau, other)
    )
    assert np.array_equal(first[sure], second[sure])

"""The numbers of a folded head, from heads.npz (numpy only): torch builds layers of them, retune rewrites them."""

from __future__ import annotations

import numpy as np

from dhox.artefacts.heads import Heads
from dhox.artefacts.manifest import Fold


def head_weights(heads: Heads, fold: Fold) -> dict[str, np.ndarray]:
    """Parameters of the head that `fold` describes, float32, by their names below `head.` in the exported graph.

    `linear.weight` [rows, d] and `linear.bias` [rows]: rows are C, or 2C for `exact`, whose second half is divided by
    beta; `exact` also has `weights` [1, 2, 1] = (alpha, 1 - alpha), and for a cosine KD head `bias` [1, 2, C] in place
    of `linear.bias`. `heads` has two layers, `ce_head` and `kd_head`, in place of `linear`. A linear fold of a cosine
    KD head works on [z, z/|z|] (weight [C, 2d]), or on z alone where `fold.z_norm` stands for |z|. Computed in float64.
    """
    ce_weight, ce_bias = (heads.ce_weight.astype(np.float64), heads.ce_bias.astype(np.float64))
    if fold.rule == "single":
        return _as_float32({"linear.weight": ce_weight, "linear.bias": ce_bias})
    kd_weight, kd_bias = (array.astype(np.float64) for array in heads.kd)
    if fold.rule == "linear":
        bias = fold.c_ce * ce_bias + fold.c_kd * kd_bias
        if heads.cosine and fold.z_norm is None:
            weight = np.concatenate([fold.c_ce * ce_weight, fold.c_kd * kd_weight], axis=1)
        else:
            weight = fold.c_ce * ce_weight + fold.c_kd / (fold.z_norm or 1.0) * kd_weight
        return _as_float32({"linear.weight": weight, "linear.bias": bias})
    kd_weight, kd_bias = kd_weight / fold.beta, kd_bias / fold.beta
    weights = {"weights": np.array([fold.alpha, 1 - fold.alpha]).reshape(1, 2, 1)}
    if fold.rule == "heads":
        layers = {
            "ce_head.weight": ce_weight, "ce_head.bias": ce_bias, "kd_head.weight": kd_weight, "kd_head.bias": kd_bias,
        }  # fmt: skip
        return _as_float32(layers | weights)
    stacked = {"linear.weight": np.concatenate([ce_weight, kd_weight])}
    if heads.cosine:
        stacked["bias"] = np.stack([ce_bias, kd_bias])[None]
    else:
        stacked["linear.bias"] = np.concatenate([ce_bias, kd_bias])
    return _as_float32(stacked | weights)


def _as_float32(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32) for name, array in arrays.items()}

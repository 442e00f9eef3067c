"""What the head of each way to answer costs: parameters, and measured time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dhox.export.folding.fold import Fold, inference_linear
from dhox.export.folding.head_weights import is_cosine
from dhox.export.graphs.graph import folded_head


def with_costs(
    rows: list[dict[str, Any]], heads: dict[str, np.ndarray], alpha: float, beta: float
) -> list[dict[str, Any]]:
    """Add to each row the head's parameters, and its median time for one image on this CPU (torch), in microseconds."""
    linear: Fold = inference_linear(alpha, beta)
    one = len(heads["ce_bias"]) + heads["ce_weight"].size
    parameters = {"single": one, "heads": 2 * one, "exact": 2 * one, "linear": one}
    folds = {rule: replace(linear, rule=rule) for rule in parameters}
    if is_cosine(heads):  # linear in [z, z/|z|]
        parameters["linear"] += heads["kd_weight"].size
        parameters["plain"], folds["plain"] = one, replace(linear, z_norm=1.0)
    rules = {"ce_head": "single", "kd_head": "single", "dho": "heads", "exact": "exact", "linear_plain": "plain"}
    z = torch.zeros(1, heads["ce_weight"].shape[1])
    times = {rule: median_microseconds(folded_head(heads, fold), z) for rule, fold in folds.items()}
    for row in rows:
        rule = rules.get(row["stage"], "linear")
        row["head_parameters"], row["head_us"] = parameters[rule], times[rule]
    return rows


def median_microseconds(module: nn.Module, z: torch.Tensor, calls: int = 300) -> float:
    """Median time of one call, after as many to warm up."""
    samples = []
    with torch.inference_mode():
        for call in range(2 * calls):
            start = time.perf_counter_ns()
            module(z)
            if call >= calls:
                samples.append(time.perf_counter_ns() - start)
    return float(np.median(samples)) / 1e3

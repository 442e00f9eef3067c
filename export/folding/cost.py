"""What the head of each way to answer costs: parameters, and measured time."""

from __future__ import annotations

import time

import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

from dhox.artefacts.heads import Heads
from dhox.artefacts.manifest import ComparisonRow, Fold
from dhox.export.folding.fold import inference_linear
from dhox.export.graphs.graph import folded_head


def with_costs(rows: list[ComparisonRow], heads: Heads, alpha: float, beta: float) -> list[ComparisonRow]:
    """The rows with the head's parameters, and its median time for one image on this CPU (torch), in microseconds."""
    linear: Fold = inference_linear(alpha, beta)
    one = len(heads.ce_bias) + heads.ce_weight.size
    parameters = {"single": one, "heads": 2 * one, "exact": 2 * one, "linear": one}
    folds = {rule: replace(linear, rule=rule) for rule in parameters}
    if heads.cosine:  # linear in [z, z/|z|]
        parameters["linear"] += heads.kd[0].size
        parameters["plain"], folds["plain"] = one, replace(linear, z_norm=1.0)
    rules = {"ce_head": "single", "kd_head": "single", "dho": "heads", "exact": "exact", "linear_plain": "plain"}
    z = torch.zeros(1, heads.ce_weight.shape[1])
    times = {rule: _median_microseconds(folded_head(heads, fold), z) for rule, fold in folds.items()}
    of_rows = [(row, rules.get(row.stage, "linear")) for row in rows]
    return [replace(row, head_parameters=parameters[rule], head_us=times[rule]) for row, rule in of_rows]


def _median_microseconds(module: nn.Module, z: torch.Tensor, calls: int = 300) -> float:
    """Median time of one call, after as many to warm up."""
    samples = []
    with torch.inference_mode():
        for call in range(2 * calls):
            start = time.perf_counter_ns()
            module(z)
            if call >= calls:
                samples.append(time.perf_counter_ns() - start)
    return float(np.median(samples)) / 1e3

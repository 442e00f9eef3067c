"""From raw samples to the statistics of a latency row."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.stats import percentile


def latency_row(rounds_ns: list[np.ndarray], batch: int, started_s: np.ndarray) -> dict[str, Any]:
    """Latency per call in milliseconds and throughput."""
    ms = np.concatenate(rounds_ns) / 1e6
    summary = {f"p{p}": percentile(ms, p) for p in (50, 90, 95, 99)}
    median = summary["p50"]
    return {
        "n": len(ms),
        "rounds": len(rounds_ns),
        "latency_ms": summary
        | {
            "max": float(ms.max()),
            "min": float(ms.min()),
            "mean": float(ms.mean()),
            "mad": float(np.median(abs(ms - median))),
        },
        "p50_interval": [float(ms.min()), float(ms.max())],
        "p99_interval": None,
        "images_per_s": batch * len(ms) / (ms.sum() / 1e3),
        "cv": float(ms.std() / ms.mean()),
        "drift": {"rho": 0.0, "change": 0.0, "flagged": False},
        "flags": [],
    }

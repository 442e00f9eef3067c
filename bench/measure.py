"""One clock for every runner: `perf_counter_ns` around a synchronised call, host memory to host memory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from dhox.bench.runners import Runner
from dhox.console import progress_bar
from dhox.stats import percentile

BOUNDARY = "host-to-host"
METHOD = (
    "perf_counter_ns around one synchronised call, from a preprocessed batch in host memory to probabilities in host "
    "memory (boundary host-to-host; decoding and resizing are outside). Warm-up calls are dropped, every other sample "
    "is kept. Percentiles are nearest-rank; images/s is images over the sum of the samples."
)
WARM_UP_SECONDS = 0.3
FEWEST_CALLS = 100


def measure(runner: Runner, batch: np.ndarray, seconds: float, description: str) -> np.ndarray:
    """Time single calls for `seconds` and at least FEWEST_CALLS calls; the samples in nanoseconds, int64 [n]."""
    end = time.perf_counter() + WARM_UP_SECONDS
    for _ in range(3):
        runner(batch)
    while time.perf_counter() < end:
        runner(batch)
    samples: list[int] = []
    end = time.perf_counter() + seconds
    with progress_bar(description, FEWEST_CALLS) as advance:
        while len(samples) < FEWEST_CALLS or time.perf_counter() < end:
            start = time.perf_counter_ns()
            runner(batch)
            samples.append(time.perf_counter_ns() - start)
            if len(samples) % 10 == 0:
                advance(10 if len(samples) <= FEWEST_CALLS else 0)
    return np.array(samples, np.int64)


def latency_summary(samples_ns: np.ndarray, batch: int) -> dict[str, Any]:
    """Latency per call in milliseconds and throughput, from raw samples."""
    latency_ms = samples_ns / 1e6
    return {
        "batch": batch,
        "n": len(latency_ms),
        "latency_ms": {
            "p50": percentile(latency_ms, 50),
            "p90": percentile(latency_ms, 90),
            "p99": percentile(latency_ms, 99),
            "mean": float(latency_ms.mean()),
            "min": float(latency_ms.min()),
            "max": float(latency_ms.max()),
        },
        "images_per_s": batch * len(samples_ns) / (samples_ns.sum() / 1e9),
    }

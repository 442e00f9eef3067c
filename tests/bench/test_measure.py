from __future__ import annotations

import time

import numpy as np
import pytest

from dhox.bench.measure import FEWEST_CALLS, latency_summary, measure


class Sleeper:
    name = provider = "sleeper"
    calls = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        time.sleep(0.001)
        return batch


def test_every_call_after_the_warm_up_is_a_sample() -> None:
    sleeper = Sleeper()
    samples = measure(sleeper, np.zeros(1), seconds=0.01, description="sleep")
    assert len(samples) == FEWEST_CALLS
    assert sleeper.calls > len(samples) + 3  # the calls of the warm-up are no samples
    assert samples.min() >= 1_000_000


def test_summary_of_known_samples() -> None:
    summary = latency_summary(np.arange(1, 101) * 1_000_000, batch=8)
    assert summary["latency_ms"] == {"p50": 50, "p90": 90, "p99": 99, "mean": 50.5, "min": 1, "max": 100}
    assert summary["images_per_s"] == pytest.approx(8 / 0.0505)
    assert (summary["n"], summary["batch"]) == (100, 8)

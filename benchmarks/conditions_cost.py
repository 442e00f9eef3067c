"""What sampling clocks and temperatures twice a second, and power twenty times a second, does to what is measured.

    python benchmarks/conditions_cost.py [--seconds 60] [--device cpu]

Bare loops of a fixed numpy workload (about a millisecond on one core), interleaved in random order with the same loop
under `Conditions` and under the energy `Sampler` of this machine's meter (where it has one). Prints the medians and
99th percentiles of the single calls, the ratio of the medians over paired rounds with its 95 % interval, and the cost
of one sample.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time

import numpy as np

from dhox.bench.sensors.conditions import ConditionsWatch
from dhox.bench.sensors.energy import Sampler, find_meter

ROUND_S = 1.0


def loop(seconds: float, matrix: np.ndarray) -> np.ndarray:
    """Milliseconds of every call in `seconds`."""
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        matrix @ matrix
        taken.append(time.perf_counter_ns() - start)
    return np.array(taken) / 1e6


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the median ratio."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    matrix = np.random.default_rng(0).random((256, 256), np.float32)
    meter, reason = find_meter(options.device)
    print(f"meter: {meter.name if meter else 'none, ' + reason}")
    arms = ["bare", "conditions"] + (["energy"] if meter else [])
    rounds = max(int(options.seconds / ROUND_S / len(arms)), 5)
    samples: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
    costs_ms: list[float] = []
    loop(ROUND_S, matrix)
    for _ in range(rounds):
        for arm in random.Random(len(costs_ms)).sample(arms, len(arms)):
            with contextlib.ExitStack() as stack:
                if arm == "conditions":
                    conditions = stack.enter_context(ConditionsWatch(options.device))
                elif arm == "energy" and meter:
                    stack.enter_context(Sampler(meter))
                samples[arm].append(loop(ROUND_S, matrix))
            if arm == "conditions":
                cost = conditions.summary().sample_ms
                assert cost is not None  # a round holds several readings
                costs_ms.append(cost)
    bare = np.array([np.median(taken) for taken in samples["bare"]])
    for arm, taken in samples.items():
        calls = np.concatenate(taken)
        low, high = interval(np.array([np.median(one) for one in taken]) / bare)
        print(
            f"{arm:10s}  p50 {np.median(calls):.4f} ms  p99 {np.quantile(calls, 0.99):.4f} ms  n {len(calls)}  "
            f"ratio to bare [{low:.4f}, {high:.4f}]"
        )
    print(f"one sample of the conditions: {np.median(costs_ms):.3f} ms, {rounds} rounds of {ROUND_S} s per arm")


if __name__ == "__main__":
    main()

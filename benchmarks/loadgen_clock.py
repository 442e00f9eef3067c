"""The clock of `dhox bench` against MLPerf's LoadGen: the same calls, timed by both in turns.

    python benchmarks/loadgen_clock.py EXPORT [--device cpu] [--runner onnxruntime] [--pairs 20] [--duration 0.5]

LoadGen's single-stream scenario and our own loop take turns on one opened model, in random order, at the scope e2e; the
numbers are medians of a query of one image. Prints how much LoadGen's is above ours, with its 95 % interval over the
pairs. These numbers are LoadGen-driven. They are no MLPerf results: those need its rules, durations, data and review.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from math import expm1, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dhox.bench.bench_models import open_models
from dhox.bench.cells import scope_calls
from dhox.bench.rounds import warm_up
from dhox.bench.runners.runner import open_runner
from dhox.evidence.statistics import mean_interval

QUERIES = 64  # at least, of a test


def ours_ms(call: Callable[[], object], duration_s: float) -> float:
    """Our median: perf_counter_ns around one call."""
    times: list[int] = []
    end = time.perf_counter() + duration_s
    while len(times) < QUERIES or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return median(times) / 1e6


def theirs_ms(lg: Any, call: Callable[[], object], duration_s: float, call_s: float, seed: int) -> float:
    """LoadGen's median of a single-stream test, from its log."""
    reply = np.zeros(1, np.float32)  # alive until LoadGen is done with its address

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            call()
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, reply.ctypes.data, reply.nbytes)])

    settings, logs = lg.TestSettings(), lg.LogSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(1000 * duration_s), QUERIES
    settings.single_stream_expected_latency_ns = int(1e9 * call_s)
    settings.sample_index_rng_seed = settings.qsl_rng_seed = settings.schedule_rng_seed = seed + 1
    logs.enable_trace, logs.log_output.copy_summary_to_stdout = False, False
    with tempfile.TemporaryDirectory() as folder:
        logs.log_output.outdir = folder
        sut, qsl = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        finally:
            lg.DestroyQSL(qsl)
            lg.DestroySUT(sut)
        lines = Path(folder, "mlperf_log_detail.txt").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines if line.startswith(":::MLLOG ")]
    return float(next(e["value"] for e in entries if e["key"] == "result_50.00_percentile_latency_ns")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runner", default="onnxruntime")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--duration", type=float, default=0.5, help="seconds of a test")
    options = parser.parse_args()
    try:
        import mlperf_loadgen as lg
    except ImportError as err:
        sys.exit(f"LoadGen could not be imported ({err}). Install it with: pip install mlcommons-loadgen")
    (model,) = open_models([options.export], precisions=("fp32",))
    side = model.preprocessing.crop
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    pairs: list[tuple[float, float]] = []
    with closing(open_runner(model, options.runner, options.device)) as runner:
        call = scope_calls(model, runner, pixels, [])["e2e"]
        call_s, _ = warm_up(call, 10.0)
        order = random.Random(0)
        for number in range(options.pairs):
            first = order.random() < 0.5
            before = ours_ms(call, options.duration) if first else 0.0
            theirs = theirs_ms(lg, call, options.duration, call_s, number)
            pairs.append((theirs, before if first else ours_ms(call, options.duration)))
    mean, interval = mean_interval([log(theirs / ours) for theirs, ours in pairs])
    print(f"LoadGen {median(theirs for theirs, _ in pairs):.4f} ms, ours {median(ours for _, ours in pairs):.4f} ms")
    low, high = interval or (float("nan"), float("nan"))
    print(f"LoadGen's is above ours by {100 * expm1(mean):.2f} % ({100 * expm1(low):.2f} to {100 * expm1(high):.2f})")


if __name__ == "__main__":
    main()

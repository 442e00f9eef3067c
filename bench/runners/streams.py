"""Concurrent streams: several runners at once, each in a thread of its own, for the throughput of a device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from dhox.bench.runners.runner import Runner, open_runner
from dhox.bench.subjects import Subject
from dhox.bench.timing import batch_pixels, words_of
from dhox.errors import DhoxError
from dhox.stats import percentile

WARM_UP_SECONDS = 0.5  # under load, before calls count
SLICES = 40  # of the duration, which the interval resamples
RESAMPLES = 2000
FEWEST_CALLS = 100  # of which one is beyond the 99th percentile
SEED = 0  # of the resampling


def stream_rows(
    pairs: list[tuple[Subject, str]],
    device: str,
    trust_engine: bool,
    batch: int,
    counts: tuple[int, ...],
    duration_s: float,
    encoded: list[bytes],
    not_run: list[str],
    into: list[dict[str, Any]],
) -> None:
    """`streams` of bench.json: every (subject, runner) with every number of streams, one after the other.

    `encoded`: the images that batches are made of. Rows go `into` a list, so that Ctrl-C loses one at most; what cannot
    be run is named in `not_run`.
    """
    for subject, runner in pairs:
        taken = subject.graph_input(batch_pixels(subject, encoded, batch))
        for count in counts:

            def open_one(subject: Subject = subject, runner: str = runner) -> Runner:
                return open_runner(subject, runner, device, trust_engine)

            try:
                row = concurrent_streams(open_one, taken, count, duration_s)
            except Exception as err:
                words = words_of(err)
                not_run.append(f"{subject.name} by {runner} at batch {batch} in {count} streams not run: {words}")
                continue
            into.append({"subject": subject.name, "runner": runner, **row})


def concurrent_streams(
    open_one: Callable[[], Runner], batch: np.ndarray, streams: int, duration_s: float
) -> dict[str, Any]:
    """Throughput of `streams` runners that run at the same time, from host batch to host output each (`infer`).

    `open_one` opens one runner (a session and stream of its own); `batch`: as the graph takes it, [B, ...]. Every
    runner is opened and bound in its own thread, one after the other; all start together and run for a warm-up and
    then `duration_s` seconds. Answers with a row of `streams` in bench.json without subject and runner: images_per_s
    with a 95 % interval, and the latency of single calls under that load (p99 None for fewer than 100 calls). Raises
    what a runner raises; all are closed.
    """
    opening, ready, stop = threading.Lock(), threading.Barrier(streams + 1), threading.Event()
    calls: list[list[tuple[int, int]]] = [[] for _ in range(streams)]
    errors: list[BaseException] = []

    def work(taken: list[tuple[int, int]]) -> None:
        runner = None
        try:
            with opening:  # CUDA graphs are captured here, while no other thread allocates
                runner = open_one()
                runner.bind(batch)
                runner.infer(batch)
            ready.wait()
            clock = time.perf_counter_ns
            while not stop.is_set():
                start = clock()
                runner.infer(batch)
                taken.append((start, clock()))
        except threading.BrokenBarrierError:
            pass  # another runner failed, and says why
        except BaseException as err:
            errors.append(err)
            ready.abort()
        finally:
            if runner is not None:
                runner.close()

    threads = [threading.Thread(target=work, args=(taken,), daemon=True) for taken in calls]
    for thread in threads:
        thread.start()
    begin = end = 0.0
    try:
        ready.wait()
        begin = time.perf_counter() + WARM_UP_SECONDS
        end = begin + duration_s
        while time.perf_counter() < end and not errors:
            time.sleep(min(0.05, max(0.0, end - time.perf_counter())))
    except threading.BrokenBarrierError:
        pass
    finally:  # also on Ctrl-C: no thread goes on
        stop.set()
        ready.abort()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    times = np.array([pair for taken in calls for pair in taken], np.int64).reshape(-1, 2) / 1e9
    return {"batch": len(batch), "streams": streams, **throughput(times, begin, end, len(batch))}


def throughput(times_s: np.ndarray, begin_s: float, end_s: float, batch: int) -> dict[str, Any]:
    """Statistics of calls (start, end) [n, 2], in seconds of one clock, within a window; block bootstrap over slices.

    A call counts in every slice of the window by the share of its time that lies there, so that slow calls at the edges
    are neither lost nor counted whole. Latencies are of calls that lie in the window wholly. Raises DhoxError where no
    call does.
    """
    start, stop = times_s[:, 0], times_s[:, 1]
    inside = (start >= begin_s) & (stop <= end_s)
    if not inside.any():
        raise DhoxError(f"No call of the streams ended within {end_s - begin_s:.1f} s. Use a longer --duration.")
    edges = np.linspace(begin_s, end_s, SLICES + 1)
    overlaps = [np.clip(np.minimum(stop, b) - np.maximum(start, a), 0, None) for a, b in pairwise(edges)]
    done = np.array([(overlap / (stop - start)).sum() for overlap in overlaps])
    rates = batch * done / (edges[1] - edges[0])
    picks = np.random.default_rng(SEED).integers(0, SLICES, (RESAMPLES, SLICES))
    low, high = np.percentile(rates[picks].mean(1), [2.5, 97.5])
    latency_ms = 1000 * (stop - start)[inside]
    return {
        "images_per_s": float(rates.mean()),
        "interval": [float(low), float(high)],
        "n": int(inside.sum()),
        "p50_ms": percentile(latency_ms, 50),
        "p99_ms": percentile(latency_ms, 99) if len(latency_ms) >= FEWEST_CALLS else None,
    }

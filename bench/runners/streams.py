"""Concurrent streams: several runners at once, each in a thread of its own, for the throughput of a device."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from math import ceil

import numpy as np

from dhox.artefacts.bench_latency import Throughput
from dhox.errors import DhoxError
from dhox.evidence.statistics import percentile
from dhox.runtimes.runtime import Session

WARM_UP_SECONDS = 0.5  # under load, before calls count
SLICES = 40  # of the duration, which the interval resamples
RESAMPLES = 2000
FEWEST_CALLS = 100  # of which one is beyond the 99th percentile
LONGEST_CALLS = 10  # of the slowest kind that the window must hold, else it meets them or not by luck
SEED = 0  # of the resampling
METHOD = (
    f"Streams: a call counts in each of {SLICES} slices of the window by the share of its time that lies there, and "
    f"the 95 % interval of images/s resamples the slices ({RESAMPLES:,} resamples, fixed seed). Latencies are of the "
    f"calls that end in the window, whenever they began; p99 is null under {FEWEST_CALLS} calls, and where the window "
    f"is shorter than {LONGEST_CALLS} times the longest call."
)


def concurrent_streams(
    open_one: Callable[[], Session], batch: np.ndarray, streams: int, duration_s: float
) -> Throughput:
    """Throughput of `streams` runners that run at the same time, from host batch to host output each (`infer`).

    `open_one` opens one runner (a session and stream of its own); `batch`: as the graph takes it, [B, ...]. Every
    runner is opened and bound in its own thread, one after the other; all start together and run for a warm-up and
    then `duration_s` seconds. The load goes on until every call that the window's end cuts has ended. Raises what a
    runner raises; all are closed.
    """
    opening, ready, stop = threading.Lock(), threading.Barrier(streams + 1), threading.Event()
    calls = [array("q") for _ in range(streams)]  # nanoseconds: start, end, start, end ...
    errors: list[BaseException] = []

    def work(taken: array[int]) -> None:
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
                taken.extend((start, clock()))
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
        while not errors and any(not taken or taken[-1] < 1e9 * end for taken in calls):
            time.sleep(0.001)
    except threading.BrokenBarrierError:
        pass
    finally:  # also on Ctrl-C: no thread goes on
        stop.set()
        ready.abort()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    times = np.concatenate([np.array(taken, np.int64) for taken in calls]).reshape(-1, 2) / 1e9
    return throughput(times, begin, end, len(batch))


def throughput(times_s: np.ndarray, begin_s: float, end_s: float, batch: int) -> Throughput:
    """Statistics of calls (start, end) [n, 2], in seconds of one clock, within a window; block bootstrap over slices.

    For the throughput a call counts in every slice of the window by the share of its time that lies there: without
    bias, like counting the calls that end there, and with less scatter where calls are long. Latencies are of the calls
    that end in the window, whenever they began: were those left out that began before it, slow calls would be missing.
    Raises DhoxError where no call ends in the window.
    """
    start, stop = times_s[:, 0], times_s[:, 1]
    took = stop - start
    ended = (stop > begin_s) & (stop <= end_s)
    if not ended.any():
        raise DhoxError(f"No call of the streams ended within {end_s - begin_s:.1f} s.", "Use a longer --duration.")
    edges = np.linspace(begin_s, end_s, SLICES + 1)
    done = np.diff([np.clip((edge - start) / took, 0, 1).sum() for edge in edges])
    rates = batch * done / (edges[1] - edges[0])
    picks = np.random.default_rng(SEED).integers(0, SLICES, (RESAMPLES, SLICES))
    low, high = np.percentile(rates[picks].mean(1), [2.5, 97.5])
    latency_ms = 1000 * took[ended]
    note = _why_no_p99(len(latency_ms), end_s - begin_s, float(took[(stop > begin_s) & (start < end_s)].max()))
    return Throughput(
        images_per_s=float(rates.mean()),
        interval=(float(low), float(high)),
        n=len(latency_ms),
        p50_ms=percentile(latency_ms, 50),
        p99_ms=None if note else percentile(latency_ms, 99),
        p99_note=note,
    )


def _why_no_p99(calls: int, window_s: float, longest_s: float) -> str | None:
    """Why so many calls in such a window tell no 99th percentile, or None; `longest_s`: of the calls that touch it."""
    if calls < FEWEST_CALLS:
        return f"only {calls} calls ended in {window_s:g} s, and one in {FEWEST_CALLS} lies beyond it"
    if window_s < LONGEST_CALLS * longest_s:
        return (
            f"a call took {1000 * longest_s:.3g} ms, and {window_s:g} s hold fewer than {LONGEST_CALLS} of these one "
            f"after the other: --duration {ceil(LONGEST_CALLS * longest_s)} or longer counts them"
        )
    return None

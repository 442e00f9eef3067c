"""One clock for every runner and scope: `perf_counter_ns` around one synchronised call, interleaved in rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dhox.artefacts.bench_latency import Key, WarmUp
from dhox.bench.interrupts import Stop
from dhox.errors import run_failure
from dhox.progress import progress_bar

FEWEST_ROUNDS = 40
SETTLE_CALLS = 3  # untimed, after another cell used the caches
SLICE_SECONDS = 0.05  # of the warm-up, whose medians are compared
STEADY = 0.01  # relative difference of successive medians, twice in a row
LONGEST_WARM_UP = 30.0  # seconds
METHOD = (
    "One clock for every runner and scope: perf_counter_ns around one synchronised call, garbage collection off. "
    f"Warm-up until the medians of slices of {SLICE_SECONDS * 1000:.0f} ms differ by less than {100 * STEADY:.0f} % "
    f"twice in a row. Then at least {FEWEST_ROUNDS} rounds; in each, every model, runner and scope has its turn in "
    f"random order, after up to {SETTLE_CALLS} untimed calls. Every timed call is kept (samples.npz)."
)


@dataclass(frozen=True)
class Cell:
    """What is timed as one: `call` does one synchronised inference of the key's batch at the key's scope."""

    key: Key
    call: Callable[[], object]


@dataclass
class Timed:
    """Times of one cell: int64 nanoseconds per call, an array per round; when each round began, in seconds of the same
    clock; and how the warm-up went."""

    warm_up: WarmUp
    rounds: list[np.ndarray] = field(default_factory=list)
    started_s: list[float] = field(default_factory=list)


def measure(
    cells: list[Cell],
    duration_s: float,
    rounds: int,
    rng: np.random.Generator,
    into: dict[Key, Timed],
    description: str = "latency",
    stop: Stop | None = None,
) -> dict[Key, str]:
    """Time the cells, interleaved, for about `duration_s` seconds each; the samples go `into` a dictionary.

    A cell that its runtime fails to run drops out, and what was timed of it is kept: answers with the runtime's words.
    At least one call per round and cell. What was measured before an exception (Ctrl-C) stays in `into`; `stop` is
    asked after every round.
    """
    calls: dict[Key, int] = {}
    failed: dict[Key, str] = {}
    for cell in cells:
        with _dropping_out(cell.key, failed):
            median_s, warm = warm_up(cell.call, min(LONGEST_WARM_UP, max(4 * SLICE_SECONDS, 2 * duration_s)))
            calls[cell.key] = max(1, round(duration_s / rounds / median_s))
            into[cell.key] = Timed(warm)
    with progress_bar(description, rounds) as advance:
        for _ in range(rounds):
            for place in rng.permutation(len(cells)):
                cell = cells[place]
                if cell.key in failed:
                    continue
                started = time.perf_counter()
                with _dropping_out(cell.key, failed):
                    into[cell.key].rounds.append(time_calls(cell.call, calls[cell.key]))
                    into[cell.key].started_s.append(started)
            advance(1)
            if stop is not None:
                stop.check()
    return failed


@contextmanager
def _dropping_out(key: Key, failed: dict[Key, str]) -> Iterator[None]:
    """Note a runtime's failure to run a model, with its words; bugs pass through."""
    try:
        yield
    except Exception as err:
        reason = run_failure(err)
        if reason is None:
            raise
        failed[key] = reason


def warm_up(call: Callable[[], object], longest_s: float) -> tuple[float, WarmUp]:
    """Call until the speed is steady, or for `longest_s` seconds; the last median in seconds, and what happened."""
    begin = time.perf_counter()
    medians: list[float] = []
    while True:
        times: list[int] = []
        end = time.perf_counter() + SLICE_SECONDS
        while not times or time.perf_counter() < end:
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        medians.append(float(np.median(times)) / 1e9)
        changes = [abs(new / old - 1) for old, new in pairwise(medians[-3:])]
        steady = len(changes) == 2 and max(changes) < STEADY
        if steady or time.perf_counter() - begin > longest_s:
            return medians[-1], WarmUp(time.perf_counter() - begin, steady)


def time_calls(call: Callable[[], object], count: int) -> np.ndarray:
    """Nanoseconds of `count` successive calls, int64 [count], after a few that are not timed."""
    samples = np.empty(count, np.int64)
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(min(SETTLE_CALLS, count)):
            call()
        for place in range(count):
            start = clock()
            call()
            samples[place] = clock() - start
    finally:
        if collecting:
            gc.enable()
    return samples

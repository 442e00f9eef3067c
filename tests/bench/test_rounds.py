from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from dhox.artefacts.bench_latency import Key
from dhox.bench.rounds import FEWEST_ROUNDS, SETTLE_CALLS, Cell, Timed, measure, time_calls, warm_up


class Counter:
    """A call that takes `seconds`, counts itself, and notes its turn."""

    def __init__(self, name: str, seconds: float, order: list[str]) -> None:
        self.name, self.seconds, self.order, self.calls = name, seconds, order, 0

    def __call__(self) -> None:
        self.calls += 1
        self.order.append(self.name)
        time.sleep(self.seconds)


def cells(order: list[str]) -> list[Cell]:
    return [Cell(Key(name, "sleep", 1, "e2e"), Counter(name, 0.001, order)) for name in ("a", "b")]


def test_every_round_visits_every_cell_and_every_timed_call_is_kept() -> None:
    samples: dict[Key, Timed] = {}
    order: list[str] = []
    both = cells(order)
    measure(both, 0.12, FEWEST_ROUNDS, np.random.default_rng(0), samples)
    for cell in both:
        taken = samples[cell.key]
        assert len(taken.rounds) == len(taken.started_s) == FEWEST_ROUNDS
        assert len({len(times) for times in taken.rounds}) == 1
        assert min(times.min() for times in taken.rounds) >= 1_000_000
        calls = len(taken.rounds[0])
        timed = FEWEST_ROUNDS * (calls + min(SETTLE_CALLS, calls))
        assert cell.call.calls > timed  # type: ignore[attr-defined]  # the warm-up is no sample
    starts = sorted((started, cell.key[0]) for cell in both for started in samples[cell.key].started_s)
    firsts = [name for _, name in starts][::2]
    assert {"a", "b"} == set(firsts)  # now one first, now the other
    for place in range(0, len(starts), 2):
        assert {starts[place][1], starts[place + 1][1]} == {"a", "b"}


def test_equal_seeds_give_equal_orders() -> None:
    orders = []
    for _ in range(2):
        samples: dict[Key, Timed] = {}
        both = cells([])
        measure(both, 0.04, 8, np.random.default_rng(7), samples)
        starts = sorted((started, cell.key[0]) for cell in both for started in samples[cell.key].started_s)
        orders.append([name for _, name in starts])
    assert orders[0] == orders[1]


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.002)
        if calls > 900:
            raise KeyboardInterrupt

    samples: dict[Key, Timed] = {}
    key = Key("a", "sleep", 1, "e2e")
    with pytest.raises(KeyboardInterrupt):
        measure([Cell(key, call)], 60, FEWEST_ROUNDS, np.random.default_rng(0), samples)
    assert key in samples


def test_the_warm_up_ends_when_the_speed_is_steady_and_says_so() -> None:
    _, steady = warm_up(lambda: time.sleep(0.01), longest_s=20)
    assert steady.steady
    pace = iter(range(1, 10_000))
    _, unsteady = warm_up(lambda: time.sleep(0.002 * next(pace)), longest_s=0.3)
    assert not unsteady.steady
    assert unsteady.seconds > 0.3


def test_garbage_collection_is_off_during_timed_calls_only() -> None:
    seen = []
    time_calls(lambda: seen.append(gc.isenabled()), 5)
    assert set(seen) == {False}
    assert gc.isenabled()

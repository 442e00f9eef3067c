"""Concurrent streams: counting calls in a window, and real runners in threads."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.bench_latency import Throughput
from dhox.bench.bench_models import open_models
from dhox.bench.runners.runner import open_runner
from dhox.bench.runners.streams import concurrent_streams, throughput
from dhox.errors import DhoxError
from dhox.runtimes.runtime import Session


@given(st.integers(1, 4), st.floats(0.01, 0.29), st.floats(0, 1), st.integers(1, 32))
def test_steady_streams_have_their_rate_whatever_the_edges_cut(
    streams: int, call_s: float, offset: float, batch: int
) -> None:
    starts = np.arange(-offset * call_s, 3 + call_s, call_s)
    one = np.stack([starts, starts + call_s], 1)
    found = throughput(np.concatenate([one] * streams), 0.0, 3.0, batch)
    assert found.images_per_s == pytest.approx(streams * batch / call_s)
    assert found.interval == pytest.approx([found.images_per_s] * 2)
    assert found.p50_ms == pytest.approx(1000 * call_s)
    if abs(streams * 3 / call_s - 100) > 2 * streams:  # which edges cut calls is left open
        assert (found.p99_ms is None) == (streams * 3 / call_s < 100)


def test_the_interval_covers_the_true_rate() -> None:
    """Calls of random length, mean 5 ms: 95 % intervals hold 200 calls/s about 95 times of 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        edges = np.cumsum(rng.exponential(0.005, 1200))
        low, high = throughput(np.stack([edges[:-1], edges[1:]], 1), edges[0], edges[0] + 4, 1).interval
        covered += low <= 200 <= high
    assert 85 <= covered <= 100


@pytest.mark.parametrize("window_s", [0.15, 3.0, 60.0])
def test_slow_calls_have_their_share_however_short_the_window(window_s: float) -> None:
    """Six calls of ten take 100 ms, the others 1 ms: many windows together have all calls and their rate."""
    rng = np.random.default_rng(2)
    took = np.where(rng.random(100_000) < 0.6, 0.1, 0.001)
    edges = np.cumsum(took)
    times = np.stack([edges - took, edges], 1)
    rows = []
    for begin in rng.uniform(1, edges[-1] - 100, 200):
        near = times[np.searchsorted(edges, begin - 1) : np.searchsorted(edges, begin + window_s + 1)]
        rows.append(throughput(near, begin, begin + window_s, 1))
    calls = sum(row.n for row in rows)
    assert calls == pytest.approx(200 * window_s / took.mean(), rel=0.15)
    rate = np.mean([row.images_per_s for row in rows])
    assert rate == pytest.approx(1 / took.mean(), rel=0.15)
    given = [row.p99_ms for row in rows if row.p99_ms is not None]
    assert given == pytest.approx([100.0] * len(given))
    assert bool(given) == (window_s == 60.0)


def test_the_statistics_of_a_million_calls_take_a_few_copies_of_them() -> None:
    edges = np.arange(1_000_001) / 1e6
    times = np.stack([edges[:-1], edges[1:]], 1)
    tracemalloc.start()
    try:
        throughput(times, 0.1, 0.9, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * times.nbytes


def test_where_there_is_no_p99_the_row_says_why() -> None:
    def row(took: list[float], window_s: float) -> Throughput:
        ends = np.cumsum(took)
        return throughput(np.stack([ends - took, ends], 1), 0.0, window_s, 1)

    steady = row([0.01] * 300, 2.0)
    assert (steady.p99_ms, steady.p99_note) == (pytest.approx(10), None)
    few = row([0.01] * 300, 0.905)
    assert few.p99_ms is None
    assert "90 calls" in (few.p99_note or "")
    cut = row([0.01] * 150 + [0.29], 1.6)  # the slow call ends after the window
    assert (cut.n, cut.p99_ms) == (150, None)
    assert "290 ms" in (cut.p99_note or "")
    assert "--duration 3" in (cut.p99_note or "")


def test_calls_longer_than_the_window_are_an_error() -> None:
    with refuses("1.0 s", at="bench.runners.streams.throughput", fix="--duration"):
        throughput(np.array([[-1.0, 3.0]]), 0.0, 1.0, 1)


class Counted:
    """A real runner that says when it is closed, and fails from its `limit`-th call on."""

    def __init__(self, runner: Session, log: list[tuple[str, str]], limit: int | None) -> None:
        self.runner, self.log, self.limit = runner, log, limit
        self.name, self.facts = runner.name, runner.facts
        self.log.append(("open", threading.current_thread().name))

    def bind(self, batch: np.ndarray) -> None:
        self.log.append(("bind", threading.current_thread().name))
        self.runner.bind(batch)

    def run(self) -> None:
        self.runner.run()

    def infer(self, batch: np.ndarray) -> np.ndarray:
        if self.limit is not None:
            self.limit -= 1
            if self.limit < 0:
                raise DhoxError("The device is gone.", "Check its cable.")
        return self.runner.infer(batch)

    def close(self) -> None:
        self.log.append(("close", threading.current_thread().name))
        self.runner.close()


def opener(line: Path, log: list[tuple[str, str]], limits: list[int | None]):  # type: ignore[no-untyped-def]
    model = open_models([line / "runs/tiny/export/model.onnx"])[0]
    return lambda: Counted(open_runner(model, "onnxruntime", "cpu"), log, limits.pop())


def test_every_stream_has_a_runner_of_its_own_in_its_own_thread(line: Path) -> None:
    log: list[tuple[str, str]] = []
    row = concurrent_streams(opener(line, log, [None, None]), np.zeros((2, 28, 28, 3), np.uint8), 2, 0.4)
    assert 0 < row.interval[0] <= row.images_per_s <= row.interval[1]
    assert 0 < row.p50_ms <= (row.p99_ms or row.p50_ms)
    assert (row.p99_ms is None) == (row.p99_note is not None)
    assert [what for what, _ in log] == ["open", "bind", "open", "bind", "close", "close"]
    threads = {thread for _, thread in log}
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


@pytest.mark.parametrize("limit", [0, 5])  # while it is prepared, and under load
def test_a_stream_that_fails_ends_all_and_is_reported(line: Path, limit: int) -> None:
    log: list[tuple[str, str]] = []
    before = threading.active_count()
    with pytest.raises(DhoxError, match="The device is gone"):
        concurrent_streams(
            opener(line, log, [limit, None]), np.zeros((1, 28, 28, 3), np.uint8), 2, 3600.0
        )  # else the suite hangs
    assert threading.active_count() == before
    assert [what for what, _ in log].count("open") == [what for what, _ in log].count("close")


def test_ctrl_c_ends_every_stream(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    log: list[tuple[str, str]] = []
    before = threading.active_count()
    monkeypatch.setattr("dhox.bench.runners.streams.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        concurrent_streams(opener(line, log, [None, None]), np.zeros((1, 28, 28, 3), np.uint8), 2, 60.0)
    assert threading.active_count() == before
    assert [what for what, _ in log].count("close") == 2

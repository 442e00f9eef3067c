"""Concurrent streams: counting calls in a window, and real runners in threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox.bench.runners.runner import Runner, open_runner
from dhox.bench.runners.streams import concurrent_streams, stream_rows, throughput
from dhox.bench.subjects import open_subjects
from dhox.errors import DhoxError


@given(st.integers(1, 4), st.floats(0.01, 0.3), st.floats(0, 1), st.integers(1, 32))
def test_steady_streams_have_their_rate_whatever_the_edges_cut(
    streams: int, call_s: float, offset: float, batch: int
) -> None:
    starts = np.arange(-offset * call_s, 3 + call_s, call_s)
    one = np.stack([starts, starts + call_s], 1)
    found = throughput(np.concatenate([one] * streams), 0.0, 3.0, batch)
    assert found["images_per_s"] == pytest.approx(streams * batch / call_s)
    assert found["interval"] == pytest.approx([found["images_per_s"]] * 2)
    assert found["p50_ms"] == pytest.approx(1000 * call_s)
    if abs(streams * 3 / call_s - 100) > 2 * streams:  # calls cut by an edge do not count
        assert (found["p99_ms"] is None) == (streams * 3 / call_s < 100)


def test_the_interval_covers_the_true_rate() -> None:
    """Calls of random length, mean 5 ms: 95 % intervals hold 200 calls/s about 95 times of 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        edges = np.cumsum(rng.exponential(0.005, 1200))
        low, high = throughput(np.stack([edges[:-1], edges[1:]], 1), edges[0], edges[0] + 4, 1)["interval"]
        covered += low <= 200 <= high
    assert 85 <= covered <= 100


def test_calls_longer_than_the_window_are_an_error() -> None:
    with pytest.raises(DhoxError, match=r"No call .* ended within 1\.0 s\. Use a longer --duration"):
        throughput(np.array([[-1.0, 3.0]]), 0.0, 1.0, 1)


class Counted:
    """A real runner that says when it is closed, and fails from its `limit`-th call on."""

    def __init__(self, runner: Runner, log: list[tuple[str, str]], limit: int | None) -> None:
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
                raise DhoxError("The device is gone. Check its cable.")
        return self.runner.infer(batch)

    def close(self) -> None:
        self.log.append(("close", threading.current_thread().name))
        self.runner.close()


def opener(line: Path, log: list[tuple[str, str]], limits: list[int | None]):  # type: ignore[no-untyped-def]
    subject = open_subjects([line / "runs/tiny/export/model.onnx"])[0]
    return lambda: Counted(open_runner(subject, "onnxruntime", "cpu"), log, limits.pop())


def test_every_stream_has_a_runner_of_its_own_in_its_own_thread(line: Path) -> None:
    log: list[tuple[str, str]] = []
    row = concurrent_streams(opener(line, log, [None, None]), np.zeros((2, 28, 28, 3), np.uint8), 2, 0.4)
    assert (row["streams"], row["batch"]) == (2, 2)
    assert 0 < row["interval"][0] <= row["images_per_s"] <= row["interval"][1]
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert [what for what, _ in log] == ["open", "bind", "open", "bind", "close", "close"]
    threads = {thread for _, thread in log}
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


@pytest.mark.parametrize("limit", [0, 5])  # while it is prepared, and under load
def test_a_stream_that_fails_ends_all_and_is_reported(line: Path, limit: int) -> None:
    log: list[tuple[str, str]] = []
    before, start = threading.active_count(), time.perf_counter()
    with pytest.raises(DhoxError, match="The device is gone"):
        concurrent_streams(opener(line, log, [limit, None]), np.zeros((1, 28, 28, 3), np.uint8), 2, 60.0)
    assert time.perf_counter() - start < 20
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


def test_rows_of_a_bench_name_what_could_not_be_run(line: Path) -> None:
    subject = open_subjects([line / "runs/tiny/export/model.onnx"])[0]
    image = next((line / "data/test/bag").iterdir()).read_bytes()
    not_run: list[str] = []
    rows: list[dict[str, object]] = []
    pairs = [(subject, "onnxruntime"), (subject, "tensorrt")]
    stream_rows(pairs, "cpu", False, 1, (1,), 0.2, [image], not_run, rows)
    assert [(row["subject"], row["runner"], row["streams"]) for row in rows] == [("fp32", "onnxruntime", 1)]
    assert len(not_run) == 1
    assert not_run[0].startswith("fp32 by tensorrt at batch 1 in 1 streams not run: ")

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.files import read_npz
from dhox.bench.bench_models import Subject, open_subjects
from dhox.bench.crosscheck.loadgen import SCENARIOS, cross_check_loadgen
from dhox.bench.crosscheck.loadgen_child import paired_numbers, pairs_of
from dhox.errors import DhoxError
from dhox.runtimes.onnxruntime_session import OnnxSession

pytest.importorskip("mlperf_loadgen")
positive = st.floats(1e-3, 1e6)


@pytest.fixture
def model(line: Path) -> tuple[Subject, np.ndarray]:
    export = line / "runs/tiny/export"
    return open_subjects([export / "model.onnx"])[0], read_npz(export / "golden.npz")["input"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loadgen_and_our_loop_measure_the_same_model(model: tuple[Subject, np.ndarray], scenario: str) -> None:
    subject, pixels = model
    pairs = 8 if scenario == "singlestream" else 2
    found = cross_check_loadgen(
        subject, "onnxruntime", "cpu", scenario, pixels, pairs=pairs, duration_s=0.03, latency_limit_ms=1e4
    )
    assert found["with"] == f"LoadGen {scenario}"
    assert "not an MLPerf result" in found["note"]
    assert found["pairs"] == pairs
    assert found["queries"] >= pairs * {"singlestream": 64, "multistream": 100, "server": 64, "offline": 1}[scenario]
    assert found["batch"] == {"multistream": 8, "offline": 32}.get(scenario, 1)
    assert found["unit"] == ("images/s" if scenario == "offline" else "ms")
    low, high = found["difference_percent"]["interval"]
    assert low <= found["difference_percent"]["mean"] <= high
    assert found["difference_percent"]["mean"] == pytest.approx(100 * (found["theirs"] / found["ours"] - 1))
    if scenario != "server":  # whose latency holds the wait in the queue
        assert 0.2 < found["theirs"] / found["ours"] < 5  # another machine's noise apart, the same call
    json.dumps(found, allow_nan=False)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=12))
def test_the_three_numbers_of_a_cross_check_fit_each_other(pairs: list[tuple[float, float]]) -> None:
    """A median beside the mean of differences would not: one disturbed pair, and they contradict each other."""
    found = paired_numbers(*map(list, zip(*pairs, strict=True)))
    difference = found["difference_percent"]
    assert difference["mean"] == pytest.approx(100 * (found["theirs"] / found["ours"] - 1), abs=1e-6)
    assert difference["interval"][0] <= difference["mean"] + 1e-9
    assert difference["mean"] <= difference["interval"][1] + 1e-9
    assert min(their for their, _ in pairs) <= found["theirs"] * (1 + 1e-9)


def test_an_interval_needs_two_pairs() -> None:
    assert paired_numbers([2.0], [1.0])["difference_percent"] == {"mean": pytest.approx(100), "interval": None}


def test_the_arrivals_of_server_follow_the_mean_of_calls_not_their_median(
    model: tuple[Subject, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth call is held up by 20 ms: a queue filled at half of what the median promises would only grow."""
    subject, pixels = model
    real, calls = OnnxSession.infer, count(1)

    def infer(self: OnnxSession, batch: np.ndarray) -> np.ndarray:
        time.sleep(0.02 * (next(calls) % 5 == 0))
        return real(self, batch)

    monkeypatch.setattr(OnnxSession, "infer", infer)
    spec = {
        "file": str(subject.file), "contract": None, "runner": "onnxruntime", "device": "cpu", "trust_engine": False,
        "scenario": "server", "pairs": 1, "duration_s": 0.05, "latency_limit_ms": 1e4, "seed": 0,
    }  # fmt: skip
    content = pairs_of(spec, pixels, tmp_path)
    assert content["ours"] < 4  # ms, a median
    assert 0.5 / 0.05 < content["target_qps"] < 0.5 / 0.004


def test_what_loadgen_calls_invalid_is_reported(model: tuple[Subject, np.ndarray]) -> None:
    subject, pixels = model
    found = cross_check_loadgen(
        subject, "onnxruntime", "cpu", "server", pixels, pairs=2, duration_s=0.05, latency_limit_ms=1e-6
    )
    assert found["valid"] == 0
    assert any("target QPS" in reason for reason in found["reasons"])


def test_errors_of_the_process_are_one_message(model: tuple[Subject, np.ndarray]) -> None:
    subject, pixels = model
    with pytest.raises(DhoxError, match="--scenario burst is unknown. Use one of: singlestream"):
        cross_check_loadgen(subject, "onnxruntime", "cpu", "burst", pixels)
    with pytest.raises(DhoxError, match=r"LoadGen's process failed \(.*without --scenario"):
        cross_check_loadgen(subject, "onnxruntime", "cpu", "singlestream", pixels[:, :20])


def test_an_error_inside_a_callback_does_not_abort_the_process(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from pathlib import Path
from dhox.bench.crosscheck.loadgen_child import loadgen_run
calls = []
def answer(numbers):
    calls.append(numbers)
    if len(calls) == 5:
        raise ValueError("the fifth call")
    return np.zeros((1, 2), np.float32)
spec = {{"scenario": "singlestream", "duration_s": 0.02, "seed": 0, "latency_limit_ms": 1.0}}
try:
    loadgen_run(answer, 4, spec, 1, 64, 1e-4, Path({str(tmp_path)!r}), 0)
except ValueError as err:
    print("caught", err, len(calls))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "caught the fifth call 5" in done.stdout
    assert not (tmp_path / "run0_trace.json").read_bytes()  # tracing is off


def test_without_loadgen_it_says_how_to_install_it(
    model: tuple[Subject, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(DhoxError, match=r"pip install 'dhox\[loadgen\]' \(on aarch64 .*build-essential"):
        cross_check_loadgen(model[0], "onnxruntime", "cpu", "singlestream", model[1])

"""make gpu-proof: parts that fail or hang leave the others alone; the rehearsal exercises every part on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_proof  # noqa: E402
from proof.record import Aim, Proof, Row, markdown  # noqa: E402

QUESTION = gpu_proof.Question("?", 60)


@pytest.mark.slow
def test_a_part_that_fails_is_kept_with_its_reason() -> None:
    part = gpu_proof.run_apart("throughput-nothing", QUESTION, True, 60)
    assert (part.status, part.rows) == ("failed", [])
    assert "KeyError: 'nothing'" in part.reason


def test_a_part_that_hangs_is_ended_and_the_next_one_runs_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_proof, "FEWEST", 0.0)
    hanging, late = gpu_proof.prove(True, ["latency", "energy"], 0.2)
    assert (hanging.status, late.status) == ("out of time", "not run")
    assert hanging.seconds < 30


def test_an_aim_has_two_sides() -> None:
    assert [Aim("at least", 0.9).held(value) for value in (0.9, 0.89)] == [True, False]
    assert [Aim("at most", 0).held(value) for value in (0, 1)] == [True, False]
    assert Row(subject="a", what="b", value=1).held is None


def test_without_cuda_it_says_how_to_rehearse() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "gpu_proof.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "make gpu-proof ARGS=--cpu" in done.stderr


@pytest.mark.slow
def test_every_part_is_rehearsed() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "gpu_proof.py", "--cpu"], capture_output=True, text=True)
    proof = msgspec.json.decode(Path("gpu_proof.json").read_bytes(), type=Proof)
    assert proof.rehearsal
    assert Path("gpu_proof.md").read_text() == markdown(proof)
    assert [part.name for part in proof.parts] == list(gpu_proof.QUESTIONS)
    ended = {part.name: (part.status, part.reason) for part in proof.parts if part.status != "complete"}
    assert set(ended) <= {"energy"}, ended  # a virtual machine has no meter
    assert done.returncode in (0, 3), done.stdout + done.stderr
    parts = {part.name: part for part in proof.parts}
    assert all(part.rows for part in proof.parts if part.status == "complete")
    found = {row.what: row for row in parts["latency"].rows if row.subject == "test_resnet, batch 1"}
    assert {"torch", "onnxruntime", "onnxruntime, bare", "onnxruntime: dhox / bare call"} == set(found)
    assert found["onnxruntime"].interval is not None
    assert next(row for row in parts["latency"].rows if row.what.startswith("largest difference")).held
    assert all(row.held for row in parts["resumed"].rows if row.aim is not None)

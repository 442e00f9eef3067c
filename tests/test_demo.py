"""The whole demo as a newcomer runs it (make test-slow)."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from plain_files import read_json
from refusals import named


@pytest.mark.slow
def test_the_demo_ends_with_a_table_a_report_and_a_better_student() -> None:
    dhox = Path(sys.executable).with_name("dhox")
    done = subprocess.run([dhox, "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for command in (
        "dhox distill demo-data",
        "dhox export runs/demo --fold-heads --fp16",
        "dhox bench runs/demo/export",
    ):
        assert f"$ {command}" in done.stdout
    for stage in ("zero-shot", "labels only", "CE head", "KD head", "DHO", "folded, torch", "ONNX fp32", "ONNX fp16"):
        assert stage in done.stdout
    assert "emulated on CPU" in done.stdout
    assert Path("runs/demo/report.html").stat().st_size > 20_000
    test = {row["stage"]: row["accuracy"] for row in read_json(Path("runs/demo/run.json"))["test"]}
    labels_only = read_json(Path("runs/demo-labels-only/run.json"))["test"][0]["accuracy"]
    assert test["dho"] > labels_only + 0.05
    bench = read_json(next(Path("runs/demo/bench").glob("*/bench.json")))
    assert abs(bench["accuracy"]["rows"][0]["accuracy"] - test["dho"]) < 0.02
    with next(Path("runs/demo/bench").glob("*/predictions.csv")).open() as file:
        assert len(list(csv.DictReader(file))) == 6000

    again = subprocess.run([dhox, "demo"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert named("runs/demo", again.stderr)
    assert named("--overwrite", again.stderr)

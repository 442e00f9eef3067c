"""The benchmark of growth runs at its smallest, and says all that it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GROWTH = Path(__file__).parents[1] / "benchmarks/growth.py"
STAGES = ("list", "scan", "scan again", "pack", "cache", "sets", "train", "report")


@pytest.mark.slow
def test_every_stage_has_its_cost_at_every_size() -> None:
    command = [sys.executable, str(GROWTH), "--images", "100", "300", "--classes", "5", "10"]
    wide = os.environ | {"COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^│ ([a-z ]+?) +│ +([\d,]+) +│ +([\d.]+) +│", done.stdout, re.MULTILINE)
    assert [row[:2] for row in rows[:16]] == [(stage, size) for stage in STAGES for size in ("100", "300")]
    assert [row[0] for row in rows[16:]] == ["list", "list", "sets", "sets", "train", "train", "report", "report"]
    assert all(float(seconds) >= 0 for *_, seconds in rows)
    assert "2 of val and test" in done.stdout

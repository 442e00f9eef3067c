"""Cross-check with MLPerf's LoadGen as the load generator and the clock, in a process of its own.

The numbers are LoadGen-driven. They are no MLPerf results: those need its rules, durations, data sets and review.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.files import write_json, write_npz
from dhox.bench.bench_models import Subject
from dhox.errors import DhoxError, UsageError

SCENARIOS = ("singlestream", "multistream", "server", "offline")
LOADGEN_SCHEMA = "dhox.loadgen/1"
FEWEST_PAIRS = 8
SAMPLES_PER_QUERY = 8  # of multistream, as in MLPerf's rules
OFFLINE_BATCH = 32
PATIENCE = 20.0  # a child that takes so many times its planned seconds hangs

NOTES = {
    "singlestream": "one image per query, the next once the last is done; medians of the latency of a query",
    "multistream": f"{SAMPLES_PER_QUERY} images per query, as one batch; medians of the latency of a query",
    "server": (
        "one image per query, Poisson arrivals at half the rate of one stream; LoadGen's latency includes the wait "
        "in the queue, ours does not, so the difference is that wait"
    ),
    "offline": f"one query with all images, in batches of {OFFLINE_BATCH}; images per second",
}


def cross_check_loadgen(
    subject: Subject,
    runner: str,
    device: str,
    scenario: str,
    pixels: np.ndarray,
    *,
    trust_engine: bool = False,
    pairs: int = FEWEST_PAIRS,
    duration_s: float = 0.5,
    latency_limit_ms: float = 15.0,
    seed: int = 0,
) -> dict[str, Any]:
    """LoadGen's numbers beside ours, at scope e2e, from one opened model, as an entry of `cross_checks`.

    `scenario`: one of SCENARIOS; `pixels`: preprocessed images uint8 [N, crop, crop, 3]; `pairs`: LoadGen and our own
    loop take turns that often, in random order, `duration_s` seconds each; `latency_limit_ms`: of the server scenario.

    `theirs`, `ours`: geometric means over the pairs, of medians per query in ms (offline: of images per second);
    `difference_percent`: theirs over ours - 1, with its 95 % interval over the pairs by Student's t; `valid`: how many
    of LoadGen's runs it calls valid, with its `reasons` for the others.

    Raises UsageError for another scenario, DhoxError where LoadGen is not installed, or its process fails.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"--scenario {scenario} is unknown.", f"Use one of: {', '.join(SCENARIOS)}.")
    require_loadgen()
    with tempfile.TemporaryDirectory(prefix="dhox-loadgen-") as place:
        folder = Path(place)
        write_npz(folder / "pixels.npz", pixels=pixels)
        write_json(
            folder / "spec.json",
            {
                "schema": LOADGEN_SCHEMA, "file": str(subject.file.absolute()),
                "contract": str(subject.contract.absolute()) if subject.contract else None, "runner": runner,
                "device": device, "trust_engine": trust_engine, "scenario": scenario, "pairs": pairs,
                "duration_s": duration_s, "latency_limit_ms": latency_limit_ms, "seed": seed,
            },
        )  # fmt: skip
        content = run_child(folder, 60 + PATIENCE * 2 * pairs * max(duration_s, 3.0))
    return {
        "with": f"LoadGen {scenario}", "subject": subject.name, "runner": runner, "scope": "e2e",
        "note": f"LoadGen-driven, not an MLPerf result: {NOTES[scenario]}", **content,
    }  # fmt: skip


def require_loadgen() -> None:
    """Raise DhoxError where LoadGen is not installed, or does not load."""
    try:
        import_module("mlperf_loadgen")
    except ImportError as err:
        raise DhoxError(
            f"--scenario needs MLPerf's LoadGen, which could not be imported ({err}).",
            "Install it with: pip install "
            "'dhox[loadgen]' (on aarch64 pip compiles it: sudo apt-get install build-essential python3-dev first).",
        ) from err


def run_child(folder: Path, limit_s: float) -> dict[str, Any]:
    """What dhox.bench.crosscheck.loadgen_child answered for FOLDER/spec.json."""
    out = folder / "out.json"
    command = [sys.executable, "-m", "dhox.bench.crosscheck.loadgen_child", str(folder / "spec.json"), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s, cwd=folder)
    except subprocess.TimeoutExpired as err:
        raise DhoxError(
            f"LoadGen's process did not end within {limit_s:.0f} s.", "Try a shorter duration, or another scenario."
        ) from err
    content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"error": None}
    if done.returncode == 0 and "error" not in content:
        return dict(content)
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise DhoxError(
        content.get("error") or f"LoadGen's process failed ({last}). Run the bench without --scenario, and report this."
    )

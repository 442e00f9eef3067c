"""`dhox retune`: choose alpha and beta of a run again from its stored validation logits. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, read_json, read_npz, to_json, write_files
from dhox.distill.results.outcome import select, test_rows
from dhox.errors import DhoxError
from dhox.system.environment import now


@dataclass(frozen=True)
class RetuneResult:
    """The new content of run.json and selection.json, and the point (alpha, beta) before."""

    run: Path
    summary: dict[str, Any]
    selection: dict[str, Any]
    before: tuple[float, float]


def retune(run: Path, *, metric: str | None = None, fixed: tuple[float, float] | None = None) -> RetuneResult:
    """Select alpha and beta from RUN/val.npz again, and rewrite selection.json and the test rows of run.json.

    `metric`: accuracy, balanced or macro-f1; None keeps the run's. `fixed`: (alpha, beta) to take instead of searching.
    Test is reported, never used. Both files are written in full before either replaces its old one. Raises DhoxError
    for a folder that holds no complete run of two heads.
    """
    if not (run / RUN_FILE).is_file():
        raise DhoxError(f"{run} is not a run directory.", "Give the directory that dhox distill wrote.")
    summary = read_json(run / RUN_FILE, RUN_SCHEMA)
    if summary.get("status") != "complete":
        raise DhoxError(f"{run} is not complete (status {summary.get('status')}).", "Finish dhox distill first.")
    if summary["method"] != "dho":
        raise DhoxError(
            f"{run} has one head (method {summary['method']}), so there is no alpha and no beta.", "Retune a dho run."
        )
    old = read_json(run / "selection.json", "dhox.selection/1")
    metric = metric or old["metric"]
    val, test = read_npz(run / "val.npz"), read_npz(run / "test.npz")
    selection = select(val, summary["sets"]["selection"], two_heads=True, metric=metric, fixed=fixed)
    rows = test_rows(test, selection, two_heads=True) if summary["test"] else None
    summary = summary | {"test": rows, "retuned_at": now()}
    write_files({run / "selection.json": to_json(selection), run / RUN_FILE: to_json(summary)})
    return RetuneResult(run, summary, selection, (old["alpha"], old["beta"]))

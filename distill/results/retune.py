"""`dhox retune`: choose alpha and beta of a run again from its stored validation logits. Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dhox.artefacts.files import RUN_FILE, write_files
from dhox.artefacts.record import record_bytes
from dhox.artefacts.run_directory import open_run
from dhox.artefacts.selection import SELECTION_FILE
from dhox.distill.results.outcome import RunResult, select, test_rows
from dhox.distill.small_options import Chosen
from dhox.errors import DhoxError
from dhox.system.environment import now


@dataclass(frozen=True)
class RetuneResult(RunResult):
    """What is new there, and the point (alpha, beta) before."""

    before: tuple[float, float]


def retune(run: Path, options: Chosen = Chosen()) -> RetuneResult:  # noqa: B008 - frozen
    """Select alpha and beta from RUN/val.npz again, and rewrite selection.json and the test rows of run.json.

    A metric that is not given is the run's. Test is reported, never used.
    Everything is read and checked before anything is written, and both files are written in full before either replaces
    its old one. Raises DhoxError for a folder that holds no complete run of two heads.
    """
    mixture = options.mixture
    opened = open_run(run, choosing_again=True)
    summary, old = opened.run, opened.selection
    if summary.method != "dho":
        raise DhoxError(
            f"{run} has one head (method {summary.method}), so there is no alpha and no beta.", "Retune a dho run."
        )
    selection = select(opened.validation, summary.sets.selection, True, options.metric or old.metric, mixture)
    rows = None if opened.test is None else test_rows(opened.test, selection, two_heads=True)
    content = record_bytes(selection)
    files = summary.files | {SELECTION_FILE: hashlib.sha256(content).hexdigest()}
    summary = msgspec.structs.replace(summary, test=rows, retuned_at=now(), files=files)
    write_files({run / SELECTION_FILE: content, run / RUN_FILE: record_bytes(summary)})
    return RetuneResult(run, summary, selection, (old.alpha, old.beta))

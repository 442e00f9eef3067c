"""What finished runs say about the accuracy of a student: the best evidence of its newest distilled run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.bench import Bench
from dhox.artefacts.common import Accuracy
from dhox.artefacts.files import BENCH_FILE, EXPORT_FILE, RUN_FILE, sha256
from dhox.artefacts.record import read_record
from dhox.artefacts.run import Run
from dhox.artefacts.sweep import KnownAccuracy
from dhox.errors import DhoxError
from dhox.models.export_directory import open_export


@dataclass(frozen=True)
class Evidence:
    """An accuracy, of which split or images, and what it was measured on; `data`: None for the run's own."""

    row: Accuracy
    split: str
    what: str
    data: str | None = None


def finished_runs(roots: list[Path]) -> list[tuple[Path, Run]]:
    """Every complete run below the roots, newest first; what cannot be read is no run.

    Raises DhoxError for a root that is not there.
    """
    found = []
    for root in roots:
        if not root.is_dir():
            raise DhoxError(f"--runs {root} is no directory.", "Give the folder that holds runs, such as runs.")
        for folder in walk(root):
            try:
                found.append((folder, read_record(folder / RUN_FILE, Run)))
            except DhoxError:
                continue
    return sorted(found, key=lambda pair: pair[1].finished_at, reverse=True)


def walk(root: Path) -> Iterator[Path]:
    """The directories with a run.json, hidden ones left out."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RUN_FILE in names:
            yield Path(place)


def accuracy_of(runs: list[tuple[Path, Run]], student: str, image_size: int, precision: str) -> KnownAccuracy | None:
    """The accuracy of the newest run of a student at an image size, or None where there is none.

    A run of both heads (method dho) goes before a baseline, however new: what is asked is how good a student becomes.
    In order: test images through the very file on some device (bench.json), test images in torch (run.json), and the
    ledger's images through the file (ledger.json).
    """
    for folder, run in sorted(runs, key=lambda pair: pair[1].method != "dho"):
        if (run.student.name, run.student.image_size) != (student, image_size):
            continue
        found = _from_bench(folder, precision) or _from_run(run) or _from_ledger(folder, precision)
        if found is not None:
            return KnownAccuracy(
                accuracy=found.row.accuracy, interval=found.row.interval, n=found.row.n, split=found.split,
                data=found.data or run.data, method=run.method, what=found.what, run=str(folder),
            )  # fmt: skip
    return None


def _from_bench(run: Path, precision: str) -> Evidence | None:
    """The newest complete bench of the run's export as it is now, by a runner that gives its golden outputs."""
    try:
        export = sha256(run / "export" / EXPORT_FILE)  # which holds the hash of every file
    except OSError:
        return None
    found = []
    for path in (run / "bench").glob(f"*/{BENCH_FILE}"):
        try:
            bench = read_record(path, Bench)
        except DhoxError:
            continue
        own = {one.name for one in bench.models if one.export and one.export.manifest_sha256 == export}
        golden = {(row.model, row.runner) for row in bench.golden if row.passed}
        rows = [
            row
            for row in bench.accuracy.rows
            if row.model in own and row.precision == precision and (row.model, row.runner) in golden
        ]
        if rows and bench.status == "complete":
            what = f"the {precision} file, {path.parent.name}"
            evidence = Evidence(rows[0], bench.accuracy.split, what, bench.accuracy.data)
            found.append((bench.finished_at, evidence))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def _from_run(run: Run) -> Evidence | None:
    """The student itself in torch, on test."""
    rows = {row.stage: row for row in run.test or []}
    row = rows.get("dho") or rows.get("student")  # two heads, or one
    return None if row is None else Evidence(row, "test", f"torch, stage {row.stage}")


def _from_ledger(run: Path, precision: str) -> Evidence | None:
    try:
        ledger = open_export(run / "export").ledger()
    except DhoxError:
        return None
    for row in ledger.rows:
        if row.stage == f"onnx_{precision}":
            return Evidence(row, ledger.images, f"the {precision} file, ledger of the export")
    return None

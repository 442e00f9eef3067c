"""What finished runs say about the accuracy of a student: the best evidence of its newest distilled run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from dhox.artefacts.files import (
    BENCH_FILE,
    BENCH_SCHEMA,
    EXPORT_FILE,
    RUN_FILE,
    RUN_SCHEMA,
    read_json,
    sha256,
)
from dhox.errors import DhoxError
from dhox.models.export_directory import open_export


def finished_runs(roots: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Every complete run below the roots with its run.json, newest first; what cannot be read is no run.

    Raises DhoxError for a root that is not there.
    """
    found = []
    for root in roots:
        if not root.is_dir():
            raise DhoxError(f"--runs {root} is no directory.", "Give the folder that holds runs, such as runs.")
        for folder in walk(root):
            try:
                summary = read_json(folder / RUN_FILE, RUN_SCHEMA)
                if summary.get("status") == "complete":
                    found.append((folder, summary))
            except DhoxError:
                continue
    return sorted(found, key=lambda pair: str(pair[1].get("finished_at", "")), reverse=True)


def walk(root: Path) -> Iterator[Path]:
    """The directories with a run.json, hidden ones left out."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RUN_FILE in names:
            yield Path(place)


def accuracy_of(
    runs: list[tuple[Path, dict[str, Any]]], student: str, image_size: int, precision: str
) -> dict[str, Any] | None:
    """The accuracy of the newest run of a student at an image size, or None where there is none.

    A run of both heads (method dho) goes before a baseline, however new: what is asked is how good a student becomes.
    {"accuracy", "interval", "n", "split", "data", "method", "what", "run"}. In order: test images through the very
    file on some device (bench.json), test images in torch (run.json), and the ledger's images through the file
    (ledger.json).
    """
    for run, summary in sorted(runs, key=lambda pair: pair[1]["method"] != "dho"):
        own = summary.get("student") or {}
        if (own.get("name"), own.get("image_size")) != (student, image_size):
            continue
        row = from_bench(run, precision) or from_run(summary) or from_ledger(run, precision)
        if row is not None:
            return {"data": str(summary["data"]), "method": summary["method"], **row, "run": str(run)}
    return None


def from_bench(run: Path, precision: str) -> dict[str, Any] | None:
    """The newest complete bench of the run's export as it is now, by a runner that gives its golden outputs."""
    try:
        export = sha256(run / "export" / EXPORT_FILE)  # which holds the hash of every file
    except OSError:
        return None
    found = []
    for path in (run / "bench").glob(f"*/{BENCH_FILE}"):
        try:
            content = read_json(path, BENCH_SCHEMA)
        except DhoxError:
            continue
        own = {one["name"] for one in content["subjects"] if (one["export"] or {}).get("manifest_sha256") == export}
        golden = {(row["subject"], row["runner"]) for row in content["golden"] if row["passed"]}
        rows = [
            row
            for row in content["accuracy"]["rows"]
            if row["subject"] in own and row["precision"] == precision and (row["subject"], row["runner"]) in golden
        ]
        if rows and content["status"] == "complete":
            accuracy = content["accuracy"]
            found.append((str(content["finished_at"]), accuracy["data"], accuracy["split"], rows[0], path))
    if not found:
        return None
    _, data, split, row, path = max(found, key=lambda entry: entry[0])
    return plain(row) | {"split": split, "data": str(data), "what": f"the {precision} file, {path.parent.name}"}


def from_run(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The student itself in torch, on test."""
    rows = {row["stage"]: row for row in summary.get("test") or []}
    row = rows.get("dho") or rows.get("student")  # two heads, or one
    return None if row is None else plain(row) | {"split": "test", "what": f"torch, stage {row['stage']}"}


def from_ledger(run: Path, precision: str) -> dict[str, Any] | None:
    """The file on the images of its export's ledger."""
    try:
        ledger = open_export(run / "export").ledger()
    except DhoxError:
        return None
    for row in ledger.rows:
        if row.stage == f"onnx_{precision}":
            return plain(to_builtins(row)) | {
                "split": ledger.images,
                "what": f"the {precision} file, ledger of the export",
            }
    return None


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """What every accuracy row has."""
    return {"accuracy": row["accuracy"], "interval": list(row["interval"]), "n": row["n"]}

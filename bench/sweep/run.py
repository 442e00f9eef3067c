"""`dhox sweep`: which student fits the latency budget, before any of them is trained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dhox.artefacts.files import SWEEP_FILE, SWEEP_SCHEMA, check_output, output_directory, write_json
from dhox.bench.bench_models import open_subjects
from dhox.bench.run import BenchResult, bench
from dhox.bench.runners.runner import check_runner, choose_device, why_no_engine
from dhox.bench.sweep.candidates import CLASSES, Candidate, all_cached, prepare
from dhox.bench.sweep.choose import choose, fronts, within_budget
from dhox.bench.sweep.footprint import METHOD as MEMORY_METHOD
from dhox.bench.sweep.footprint import measure_footprint
from dhox.bench.sweep.known_accuracy import accuracy_of, finished_runs
from dhox.console import progress_bar, say
from dhox.errors import DhoxError, UsageError
from dhox.models.export_directory import open_export
from dhox.models.onnx_graph import read_graph
from dhox.system.environment import now, versions
from dhox.system.machine import device_card

METHOD = [
    "Every student is exported untrained, with random weights, by the path of dhox export: the time of a network does "
    "not depend on its weights. Three exceptions are small: a trained fp16 export may keep other nodes in fp32, a "
    "folded cosine head adds one normalisation, and values so small that they are denormal slow a CPU down. int8 is "
    "not swept: which layers stay fp16 depends on the trained weights.",
    "A student is within the budget where the upper end of the 95 % interval of its median latency is.",
    "Parameters: the floating-point numbers that the file stores, BatchNorm folded where the exporter does.",
    "On the Pareto front are the students that no other one beats in one respect without losing in the other.",
]


@dataclass(frozen=True)
class SweepResult:
    """What `dhox sweep` reports: the content of sweep.json."""

    sweep: Path
    content: dict[str, Any]


def sweep(
    students: list[str],
    out: Path | None,
    *,
    candidates: Path,
    image_size: int | None = None,
    classes: int | None = None,
    fp16: bool = False,
    device: str = "auto",
    host: str | None = None,
    runner: str | None = None,
    batch: int = 1,
    scope: str = "e2e",
    budget_ms: float | None = None,
    duration_s: float = 4.0,
    energy_s: float = 30.0,
    runs: list[Path] | None = None,
    overwrite: bool = False,
) -> SweepResult:
    """Export, measure interleaved, compare, and write the sweep directory (sweep.json, and bench/ with the samples).

    `students`: names as `dhox distill --student` takes them; empty: all in `candidates`, the cache of exports, that are
    of `image_size` and `classes`. These two: None for each student's own size and 10 classes, or for whatever the cache
    holds. `host`: a board to measure on by SSH. `scope`: one of dhox.bench.scopes. `energy_s`: seconds of the
    window in which each student's energy is measured, 0 for none. `runs`: folders with finished runs, whose accuracies
    are joined. A student that cannot be exported or run is listed with its reason. Ctrl-C keeps what was
    done, and chooses nothing. Raises DhoxError for unknown students, and where none of them can be measured; UsageError
    where the cache holds a student in several sizes, or several numbers of classes, and none is chosen.
    """
    precision = "fp16" if fp16 else "fp32"
    used = None if host is not None else choose_device(device, [])  # before anything is exported
    if used is not None and runner is not None:
        check_runner(runner, used)
    if fp16 and used == "cpu":
        raise UsageError(
            "--fp16 on the CPU would time conversions: its provider computes fp16 in fp32.", "Leave it out."
        )
    if out is not None:
        check_output(out, SWEEP_FILE, SWEEP_SCHEMA, overwrite)
    known = finished_runs(runs or [])
    if students:
        found, failed = prepare(students, candidates, image_size, classes or CLASSES, precision, say)
    else:
        found, failed = all_cached(candidates, precision, image_size, classes), []
    out = out or Path("sweeps", f"{host or device_card().host}-{datetime.now():%Y%m%d-%H%M%S}")

    with output_directory(out, SWEEP_FILE, SWEEP_SCHEMA, overwrite) as folder:
        result = measure_all(
            found, folder / "bench", device, host, runner, precision, batch, scope, duration_s, energy_s
        )
        rows = []
        for candidate in found:
            row = measured_row(candidate, result.content, precision)
            if row is None:
                failed.append({"student": candidate.student, "reason": reason_of(candidate, result.content)})
                continue
            accuracy = accuracy_of(known, candidate.student, candidate.image_size, precision)
            rows.append(row | {"accuracy": accuracy, "within": None, "memory_bytes": None, "memory_note": None})
        interrupted = result.content["status"] == "interrupted"
        if not rows and not interrupted:
            raise DhoxError("No student could be measured.", f"{failed[0]['student']}: {failed[0]['reason']}")
        if budget_ms is not None:
            rows = [row | {"within": within_budget(row, budget_ms)} for row in rows]
        add_footprints(rows, found, result.content, precision, batch, skip=host is not None or interrupted)
        by_accuracy, by_size = fronts(rows)
        # A student that was not measured could be the better one.
        choice = None if budget_ms is None or interrupted else choose(rows, budget_ms)
        content = {
            "schema": SWEEP_SCHEMA,
            "status": result.content["status"],
            "finished_at": now(),
            "device_asked": device,
            "host": host,
            "device": result.content["device"],
            "settings": {
                "students": students, "image_size": image_size, "classes": found[0].classes, "precision": precision,
                "batch": batch, "scope": scope, "runner": runner, "duration_s": duration_s, "energy_s": energy_s,
                "budget_ms": budget_ms, "runs": [str(root.absolute()) for root in runs or []],
                "candidates": str(candidates.absolute()),
            },
            "method": [*METHOD, MEMORY_METHOD, *result.content["method"]],
            "rows": sorted(rows, key=lambda row: row["latency_ms"]["p50"]),
            "failed": failed,
            "front": {"accuracy": by_accuracy, "parameters": by_size},
            "choice": None if choice is None else vars(choice),
            "energy": {key: result.content["energy"].get(key) for key in ("meter", "note", "estimate")},
            "conditions": result.content["conditions"],
            "environment": versions(),
        }  # fmt: skip
        write_json(folder / SWEEP_FILE, content)
    return SweepResult(out, content)


def measure_all(
    found: list[Candidate], out: Path, device: str, host: str | None, runner: str | None, precision: str, batch: int,
    scope: str, duration_s: float, energy_s: float,
) -> BenchResult:  # fmt: skip
    """All candidates in one bench, interleaved; engines are built first where TensorRT is to run them."""
    paths = [candidate.export for candidate in found]
    if host is not None:
        from dhox.bench.remote.run import bench_remote

        words = [
            f"--duration={duration_s}",
            f"--energy={energy_s}",
            f"--scope={scope}",
            f"--batch={batch}",
            f"--precision={precision}",
        ]
        words += [f"--runner={runner}"] if runner else []
        results, problem = bench_remote(
            host, paths, words, out, device=device, precisions=(precision,), batches=(batch,)
        )
        if problem is not None:
            raise problem
        return results[0]
    if device in {"tensorrt", "jetson"} and (runner or "tensorrt").startswith("tensorrt"):
        build_missing_engines(found, precision, batch)
    return bench(
        paths, out, device=device, runners=(runner,) if runner else (), precisions=(precision,), batches=(batch,),
        scopes=(scope,), duration_s=duration_s, energy_s=energy_s,
    )  # fmt: skip


def build_missing_engines(found: list[Candidate], precision: str, batch: int) -> None:
    """An engine for every candidate that has none for this machine; what fails is said, and the bench goes on."""
    from dhox.export.engines.engine import build_engines

    for candidate in found:
        (subject,) = open_subjects([candidate.export], precisions=(precision,))
        if why_no_engine(subject) is None:
            continue
        say(f"Building the {precision} engine of {candidate.student}")
        try:
            build_engines(candidate.export, precisions=[precision], batches=(1, batch, batch), overwrite=True)
        except DhoxError as err:
            say(f"No engine of {candidate.student}: {err}")


def subject_name(candidate: Candidate, content: dict[str, Any]) -> str | None:
    """What bench.json calls the candidate's file."""
    place = str(candidate.export.absolute())
    return next((one["name"] for one in content["subjects"] if (one["export"] or {}).get("path") == place), None)


def measured_row(candidate: Candidate, content: dict[str, Any], precision: str) -> dict[str, Any] | None:
    """The candidate's row of sweep.json, without its accuracy; None where it was not measured or answers wrongly."""
    name = subject_name(candidate, content)
    if any(row["subject"] == name and not row["passed"] for row in content["golden"]):
        return None
    latency = next((row for row in content["latency"] if row["subject"] == name), None)
    if latency is None:
        return None
    energy: dict[str, Any] = next((row for row in content["energy"]["rows"] if row["subject"] == name), {})
    entry = open_export(candidate.export).entry(precision)
    weights = read_graph(candidate.export / entry.file).weights
    keys = ("latency_ms", "p50_interval", "p99_interval", "images_per_s", "flags", "emulated", "runner")
    return {
        "student": candidate.student,
        "image_size": candidate.image_size,
        "parameters": sum(count for dtype, count in weights.items() if "float" in dtype),
        "bytes": entry.bytes,
        **{key: latency[key] for key in keys},
        "mj_per_image": energy.get("mj_per_image"),
        "net_mj_per_image": energy.get("net_mj_per_image"),
    }


def reason_of(candidate: Candidate, content: dict[str, Any]) -> str:
    """Why a candidate has no row."""
    name = subject_name(candidate, content)
    if any(row["subject"] == name and not row["passed"] for row in content["golden"]):
        return "it does not give its golden outputs on this machine"
    said = [sentence for sentence in content["not_run"] if name and sentence.startswith(f"{name} ")]
    return said[0] if said else "the sweep was interrupted before it was measured"


def add_footprints(
    rows: list[dict[str, Any]], found: list[Candidate], content: dict[str, Any], precision: str, batch: int, skip: bool
) -> None:
    """`memory_bytes` of every row by the runner that timed it, or in `memory_note` why not; Ctrl-C leaves the rest."""
    used = {row["runner"]: row["device"] for row in content["runners"]}
    exports = {candidate.student: candidate.export for candidate in found}  # each student is there once
    try:
        with progress_bar("memory", 0 if skip else len(rows)) as advance:
            for row in [] if skip else rows:
                device = used[row["runner"]]
                try:
                    row["memory_bytes"] = measure_footprint(
                        exports[row["student"]], precision, row["runner"], device, batch
                    )
                except DhoxError as err:
                    row["memory_note"] = str(err)
                advance(1)
    except KeyboardInterrupt:
        say("Interrupted: the latencies are kept, the rest of the memory column is missing.")

"""`dhox sweep`: which student fits the latency budget, before any of them is trained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from dhox.artefacts.bench import Bench
from dhox.artefacts.files import SWEEP_FILE, SWEEP_SCHEMA, check_output, output_directory
from dhox.artefacts.record import write_record
from dhox.artefacts.sweep import EnergySource, Failed, Sweep, SweepRow, SweepSettings
from dhox.bench.bench_models import open_models
from dhox.bench.options import BenchOptions, How, Output, What, Where
from dhox.bench.run import bench
from dhox.bench.runners.runner import check_runner, choose_device, why_no_engine
from dhox.bench.sweep.candidates import CLASSES, Candidate, all_cached, prepare
from dhox.bench.sweep.choose import choose, fronts, within_budget
from dhox.bench.sweep.footprint import METHOD as MEMORY_METHOD
from dhox.bench.sweep.footprint import measure_footprint
from dhox.bench.sweep.known_accuracy import accuracy_of, finished_runs
from dhox.bench.sweep.options import SweepOptions
from dhox.console import say
from dhox.errors import DhoxError, UsageError
from dhox.models.export_directory import open_export
from dhox.models.onnx_graph import read_graph
from dhox.progress import progress_bar
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
    """What `dhox sweep` reports: its directory, and sweep.json."""

    directory: Path
    sweep: Sweep


def sweep(options: SweepOptions) -> SweepResult:
    """Export, measure interleaved, compare, and write the sweep directory (sweep.json, and bench/ with the samples).

    A student that cannot be exported or run is listed with its reason. Ctrl-C keeps what was done, and chooses nothing.
    Raises DhoxError for unknown students, and where none of them can be measured; UsageError where the cache holds a
    student in several sizes, or several numbers of classes, and none is chosen.
    """
    students, output = options.students, options.output
    budget_ms = options.measuring.budget_ms
    check_place(options)
    if output.out is not None:
        check_output(output.out, SWEEP_FILE, SWEEP_SCHEMA, output.overwrite)
    known = finished_runs(list(students.runs))
    found, failed = find_candidates(options)
    host = options.place.host or device_card().host
    out = output.out or Path("sweeps", f"{host}-{datetime.now():%Y%m%d-%H%M%S}")
    with output_directory(out, SWEEP_FILE, SWEEP_SCHEMA, output.overwrite) as folder:
        measured = measure_all(found, folder / "bench", options)
        interrupted = measured.status == "interrupted"
        rows = []
        for candidate in found:
            row = _measured_row(candidate, measured, students.precision)
            if row is None:
                failed.append(Failed(candidate.student, reason_of(candidate, measured)))
                continue
            within = None if budget_ms is None else within_budget(row, budget_ms)
            accuracy = accuracy_of(known, candidate.student, candidate.image_size, students.precision)
            rows.append(replace(row, accuracy=accuracy, within=within))
        if not rows and not interrupted:
            raise DhoxError("No student could be measured.", f"{failed[0].student}: {failed[0].reason}")
        if options.place.host is None and not interrupted:
            rows = with_footprints(rows, found, measured, students.precision, options.measuring.batch)
        content = _sweep_content(options, found[0].classes, measured, rows, failed)
        write_record(folder / SWEEP_FILE, content)
    return SweepResult(out, content)


def check_place(options: SweepOptions) -> None:
    """Raise where the device is not there, or cannot do what is asked for; before anything is exported."""
    if options.place.host is not None:
        return
    used = choose_device(options.place.device, [])
    if options.measuring.runner is not None:
        check_runner(options.measuring.runner, used)
    if options.students.fp16 and used == "cpu":
        raise UsageError(
            "--fp16 on the CPU would time conversions: its provider computes fp16 in fp32.", "Leave it out."
        )


def find_candidates(options: SweepOptions) -> tuple[list[Candidate], list[Failed]]:
    """The named students, exported where the cache lacks them, or all that it holds; and those that failed."""
    students = options.students
    if students.names:
        classes = students.classes or CLASSES
        return prepare(students.names, students.candidates, students.image_size, classes, students.precision)
    return all_cached(students.candidates, students.precision, students.image_size, students.classes), []


def measure_all(found: list[Candidate], out: Path, options: SweepOptions) -> Bench:
    """All candidates in one bench, interleaved; engines are built first where TensorRT is to run them."""
    how, place, precision = options.measuring, options.place, options.students.precision
    paths = [candidate.export for candidate in found]
    asked = BenchOptions(
        what=What(runner=(how.runner,) if how.runner else (), precision=(precision,)),
        how=How(batch=str(how.batch), scope=how.scope, duration=how.duration, energy=how.energy),
        where=Where(device=place.device, host=place.host),
        output=Output(out=out),
    )
    if place.host is not None:
        from dhox.bench.remote.run import bench_remote

        results, problem = bench_remote(paths, asked)
        if problem is not None:
            raise problem
        return results[0].bench
    if place.device in {"tensorrt", "jetson"} and (how.runner or "tensorrt").startswith("tensorrt"):
        _build_missing_engines(found, precision, how.batch)
    return bench(paths, asked).bench


def _build_missing_engines(found: list[Candidate], precision: Literal["fp32", "fp16"], batch: int) -> None:
    """An engine for every candidate that has none for this machine; what fails is said, and the bench goes on."""
    from dhox.export.engines.engine import build_engines
    from dhox.export.options import Engines

    for candidate in found:
        (model,) = open_models([candidate.export], precisions=(precision,))
        if why_no_engine(model) is None:
            continue
        say(f"Building the {precision} engine of {candidate.student}")
        try:
            build_engines(candidate.export, Engines(precision=(precision,), batch=f"1:{batch}:{batch}"), overwrite=True)
        except DhoxError as err:
            say(f"No engine of {candidate.student}: {err}")


def _name_of(candidate: Candidate, measured: Bench) -> str | None:
    """What bench.json calls the candidate's file."""
    place = str(candidate.export.absolute())
    return next((model.name for model in measured.models if model.export and model.export.path == place), None)


def _wrong_answers(name: str | None, measured: Bench) -> bool:
    return any(row.model == name and not row.passed for row in measured.golden)


def _measured_row(candidate: Candidate, measured: Bench, precision: str) -> SweepRow | None:
    """The candidate's row, without its accuracy; None where it was not measured or answers wrongly."""
    name = _name_of(candidate, measured)
    latency = next((row for row in measured.latency if row.model == name), None)
    if latency is None or _wrong_answers(name, measured):
        return None
    energy = next((row for row in measured.energy.rows if row.model == name), None)
    entry = open_export(candidate.export).entry(precision)
    weights = read_graph(candidate.export / entry.file).weights
    return SweepRow(
        student=candidate.student,
        image_size=candidate.image_size,
        parameters=sum(count for dtype, count in weights.items() if "float" in dtype),
        bytes=entry.bytes,
        latency_ms=latency.latency_ms,
        p50_interval=latency.p50_interval,
        p99_interval=latency.p99_interval,
        images_per_s=latency.images_per_s,
        flags=latency.flags,
        runner=latency.runner,
        mj_per_image=energy.mj_per_image if energy else None,
        net_mj_per_image=energy.net_mj_per_image if energy else None,
    )


def reason_of(candidate: Candidate, measured: Bench) -> str:
    """Why a candidate has no row."""
    name = _name_of(candidate, measured)
    if failed := [row for row in measured.golden if row.model == name and not row.passed]:
        return f"it fails its golden check on this machine ({failed[0].failure})"
    reasons = [missing.reason for missing in measured.not_run if missing.model is not None and missing.model == name]
    reasons += [why for (model, _), why in measured.emulated.items() if model == name]
    return reasons[0] if reasons else "the sweep was interrupted before it was measured"


def with_footprints(
    rows: list[SweepRow], found: list[Candidate], measured: Bench, precision: str, batch: int
) -> list[SweepRow]:
    """The rows with the memory that each takes by the runner that timed it, or why not; Ctrl-C leaves the rest."""
    devices = {row.runner: row.facts.device for row in measured.runners}
    exports = {candidate.student: candidate.export for candidate in found}  # each student is there once
    done: list[SweepRow] = []
    try:
        with progress_bar("memory", len(rows)) as advance:
            for row in rows:
                try:
                    memory = measure_footprint(exports[row.student], precision, row.runner, devices[row.runner], batch)
                    done.append(replace(row, memory_bytes=memory))
                except DhoxError as err:
                    done.append(replace(row, memory_note=err.reason))
                advance(1)
    except KeyboardInterrupt:
        say("Interrupted: the latencies are kept, the rest of the memory column is missing.")
    return done + rows[len(done) :]


def _sweep_content(
    options: SweepOptions, classes: int, measured: Bench, rows: list[SweepRow], failed: list[Failed]
) -> Sweep:
    students, how, budget_ms = options.students, options.measuring, options.measuring.budget_ms
    settings = SweepSettings(
        students=students.names, image_size=students.image_size, classes=classes,
        precision=students.precision, batch=how.batch, scope=how.scope, runner=how.runner, duration_s=how.duration,
        energy_s=how.energy, budget_ms=budget_ms, runs=[str(root.absolute()) for root in students.runs],
        candidates=str(students.candidates.absolute()),
    )  # fmt: skip
    return Sweep(
        status=measured.status,
        finished_at=now(),
        device_asked=options.place.device,
        host=options.place.host,
        device=measured.device,
        settings=settings,
        method=[*METHOD, MEMORY_METHOD, *measured.method],
        rows=sorted(rows, key=lambda row: row.latency_ms.p50),
        failed=failed,
        front=fronts(rows),
        # A student that was not measured could be the better one.
        choice=None if budget_ms is None or measured.status == "interrupted" else choose(rows, budget_ms),
        energy=EnergySource(meter=measured.energy.meter, note=measured.energy.note, estimate=measured.energy.estimate),
        conditions=measured.conditions,
        environment=versions(),
    )

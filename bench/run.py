"""`dhox bench`: models to a bench directory, without torch."""

from __future__ import annotations

from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, check_output, free_name, output_directory
from dhox.bench.accuracy import evaluation_items
from dhox.bench.bench_models import Subject, open_subjects
from dhox.bench.contract_model import check_batches
from dhox.bench.crosscheck.cross_checks import loadgen_checks, trtexec_checks
from dhox.bench.crosscheck.loadgen import require_loadgen
from dhox.bench.evaluate import judge
from dhox.bench.interrupts import Stop, stopping_signals
from dhox.bench.machine_lock import one_at_a_time
from dhox.bench.results import Found, write_results
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, measure
from dhox.bench.runners.runner import check_runner, choose_device, default_runners, open_runner
from dhox.bench.runners.streams import stream_rows
from dhox.bench.scopes import SCOPES
from dhox.bench.sensors.conditions import Conditions
from dhox.bench.sensors.energy import find_meter, measure_energy, measure_idle
from dhox.bench.sensors.meter import Meter
from dhox.bench.sensors.nvml import gpu_card
from dhox.bench.timed_cells import Pair, cells_of_batch, opened, samples_key, timed_images, words_of
from dhox.console import say
from dhox.data.dataset import Item
from dhox.data.images import UnreadableImageError
from dhox.errors import DhoxError, run_failure
from dhox.system.jetson_state import process_peak_bytes, shared_memory
from dhox.system.machine import device_card

SEED = 0  # of the order in which the cells of a round are measured
ENERGY_SCOPE = "e2e"  # what an application pays for: copies included, decoding not


@dataclass(frozen=True)
class BenchResult:
    """What `dhox bench` reports: the content of bench.json. `passed`: every model passed its golden check."""

    bench: Path
    content: dict[str, Any]
    passed: bool


def bench(
    paths: list[Path],
    out: Path | None = None,
    *,
    device: str = "auto",
    runners: tuple[str, ...] = (),
    precisions: tuple[str, ...] = (),
    contract: Path | None = None,
    batches: tuple[int, ...] = (1, 8),
    scopes: tuple[str, ...] = tuple(SCOPES),
    duration_s: float = 4.0,
    energy_s: float = 30.0,
    streams: tuple[int, ...] = (),
    scenario: str | None = None,
    data: Path | None = None,
    trust_engine: bool = False,
    overwrite: bool = False,
) -> BenchResult:
    """Measure models on this machine and write the bench directory.

    `paths`: export directories, model files of exports, ONNX files that `contract` describes. `out`: by default
    bench/HOST-TIME beside the first export. `duration_s`: per model, runner, batch and scope. `energy_s`: per model,
    runner and batch, 0 for none. `streams`: how many runners at once, for throughput. `scenario`: of LoadGen, as a
    cross-check. `data`: where the images are, by default the test split where the first export says, and the images of
    every ledger where its export says. A model that fails is named in `not_run`; a stopping signal or an error ends the
    measurement and keeps what is there (status interrupted). Raises DhoxError for a damaged export, a device that is
    not there, bad images, and where no model can be run.
    """
    subjects = open_subjects(paths, contract, precisions)
    used = choose_device(device, subjects)
    for runner in runners:
        check_runner(runner, used)
    if scenario is not None:
        require_loadgen()
    not_run: list[str] = []
    check_batches(subjects, batches)
    card = msgspec.to_builtins(device_card()) | {"gpu": gpu_card()}
    if out is not None:
        check_output(out, BENCH_FILE, BENCH_SCHEMA, overwrite)
    items, where, accuracy_note = evaluation_items(data, subjects)
    images, encoded = timed_images(subjects, items)
    pairs = [(subject, runner) for subject in subjects for runner in runners or default_runners(used, subject)]
    meter, energy_note = find_meter(used) if energy_s else (None, "it was not asked for")
    if meter is not None and card["sysroot"]:
        meter.close()
        meter, energy_note = None, f"sensors below {card['sysroot']} are a recording, not this machine's"

    found = Found(
        device_asked=device, card=card, subjects=subjects, items=items, where=where, accuracy_note=accuracy_note,
        meter=meter, energy_note=energy_note, not_run=not_run,
        settings={
            "batches": list(batches), "scopes": list(scopes), "duration_s": duration_s, "energy_s": energy_s,
            "streams": list(streams), "scenario": scenario, "rounds": FEWEST_ROUNDS, "seed": SEED,
            "runners": list(dict.fromkeys(name for _, name in pairs)), "images": images,
        },
    )  # fmt: skip
    rng = np.random.default_rng(SEED)
    status = "complete"
    ended: Exception | None = None
    with ExitStack() as stack:
        if meter is not None:
            stack.enter_context(closing(meter))
        stack.enter_context(one_at_a_time())
        out = out or free_name(default_out(subjects[0]) / f"{card['host']}-{datetime.now():%Y%m%d-%H%M%S}")
        folder = stack.enter_context(output_directory(out, BENCH_FILE, BENCH_SCHEMA, overwrite))
        try:
            with stopping_signals() as stop, shared_memory() if card["jetson"] else nullcontext() as watch:
                if meter is not None:
                    idle(meter, found)
                able = judge_all(pairs, used, trust_engine, items, data, found, stop)
                with Conditions(used) as conditions:
                    try:
                        for batch in batches:
                            with opened(able, used, trust_engine, not_run) as models:
                                cells = cells_of_batch(models, batch, encoded, not_run)
                                found.add_runners(models, batch)
                                timed = [cell for cell in cells if cell.key[3] in scopes]
                                words = f"batch {batch}"
                                conditions.throttled()  # what was before is no row's
                                try:
                                    failed = measure(timed, duration_s, FEWEST_ROUNDS, rng, found.samples, words, stop)
                                finally:
                                    found.throttled |= {batch} if conditions.throttled() else set()
                                found.add_failures(failed)
                                if found.idle is not None and meter is not None:
                                    energy(meter, cells, energy_s, found)
                                trtexec_checks(models, batch, encoded, found)
                            emulated = found.emulated()
                            real = [pair for pair in able if (pair[0].name, pair[1]) not in emulated]
                            stream_rows(
                                real, used, trust_engine, batch, streams, duration_s, encoded, not_run, found.streams
                            )
                            stop.check()
                            if batch != batches[-1]:  # after the last one they are written as they are
                                write_results(folder, found, "running")
                    finally:
                        found.conditions = conditions.summary()
                        found.memory = msgspec.to_builtins(watch.summary()) if watch else own_memory()
                if streams or scenario:
                    not_run += [
                        f"{subject} by {runner} in streams or by LoadGen not run: this device emulates its precision"
                        for subject, runner in sorted(found.emulated())
                    ]
                if scenario is not None:
                    loadgen_checks(real, used, scenario, trust_engine, encoded, found)
        except KeyboardInterrupt:
            say("Interrupted: what was measured so far is kept.")
            status = "interrupted"
        except Exception as err:
            if not (found.samples or found.verdicts.answers):
                raise
            not_run.append(f"the rest not run: {run_failure(err) or type(err).__name__}")
            status, ended = "interrupted", err
        try:
            content = write_results(folder, found, status)
        except DhoxError as err:
            raise DhoxError(err.reason, f"{err.fix} What could be written is in {folder}.") from err
    if ended is not None:
        say(f"What was measured before the error is in {out}.")
        if (said := run_failure(ended)) is not None and not isinstance(ended, DhoxError):
            raise DhoxError(
                f"The bench ended early ({said}).", "Free memory or disk space, or leave out what failed."
            ) from ended
        raise ended
    return BenchResult(out, content, all(row["passed"] for row in content["golden"]))


def own_memory() -> dict[str, Any]:
    """`memory` of bench.json where GPU and CPU share none."""
    method = "The process's peak resident set (VmHWM); what a discrete GPU holds is not in it."
    return {"peak_bytes": None, "process_peak_bytes": process_peak_bytes(), "method": method}


def default_out(subject: Subject) -> Path:
    """Where bench directories go: beside the export, or here for a model of another tool."""
    return subject.export.absolute().parent / "bench" if subject.export else Path.cwd() / "bench-results"


def judge_all(
    pairs: list[Pair], device: str, trust_engine: bool, items: list[Item], data: Path | None, found: Found, stop: Stop
) -> list[Pair]:
    """Judge every pair that can be opened and run, and answer with these; the others are named in `not_run`.

    Raises the first error where none can be run, and UnreadableImageError for an image that nobody can read.
    """
    able: list[Pair] = []
    errors: list[DhoxError] = []
    for subject, name in pairs:
        try:
            with closing(open_runner(subject, name, device, trust_engine)) as runner:
                judge(subject, runner, items, data, found.verdicts)
        except UnreadableImageError:
            raise
        except Exception as err:
            stop.check()
            found.not_run.append(f"{subject.name} by {name} not run: {words_of(err)}")
            errors.append(
                err if isinstance(err, DhoxError) else DhoxError(f"{found.not_run[-1]}.", "Try another runner.")
            )
            continue
        stop.check()
        able.append((subject, name))
    if not able:
        raise errors[0]
    return able


def idle(meter: Meter, found: Found) -> None:
    """Idle power, before any model is opened; without it no energy is measured."""
    say(f"Idle power by {meter.words}")
    try:
        found.idle = measure_idle(meter)
    except DhoxError as err:
        found.energy_note = str(err)


def energy(meter: Meter, cells: list[Cell], seconds: float, found: Found) -> None:
    """A window of its own for every model that this device really computes, at ENERGY_SCOPE."""
    for cell in cells:
        subject, runner, batch, scope = cell.key
        if scope != ENERGY_SCOPE or (subject, runner) in found.emulated():
            continue
        say(f"Energy of {subject} by {runner}, batch {batch}: {seconds:g} s")
        try:
            row, trace = measure_energy(
                meter, cell.call, batch, found.idle, seconds, accuracy=found.accuracy_of(subject, runner)
            )
        except Exception as err:
            found.not_run.append(f"energy of {subject} by {runner} at batch {batch} not measured: {words_of(err)}")
            continue
        key = f"energy_{samples_key((subject, runner, batch))}"
        names = {"subject": subject, "runner": runner, "batch": batch, "scope": scope, "trace": key}
        found.energy.append({**names, **row})
        found.traces |= {f"{key}_{name}": array for name, array in trace.items()}

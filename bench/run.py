"""`dhox bench`: models to a bench directory, without torch."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import asdict

from dhox.artefacts.bench import Bench, NotRun, RunnerRow, Settings
from dhox.artefacts.bench_latency import StreamRow
from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, check_output, free_name, output_directory
from dhox.artefacts.machine import DeviceCard
from dhox.bench.accuracy import evaluation_images
from dhox.bench.bench_models import BenchModel, check_batches, open_models
from dhox.bench.camera_models import NO_ACCURACY, timed_scopes, with_cameras
from dhox.bench.cells import Pair, TimedImages, cells_of_batch, opened, reason_of, timed_images
from dhox.bench.evaluate import Answers, evaluate
from dhox.bench.interrupts import Stop, stopping_signals
from dhox.bench.machine_lock import one_at_a_time
from dhox.bench.options import BenchOptions, check
from dhox.bench.results import Found, write_results
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, measure
from dhox.bench.runners.runner import check_runner, choose_device, default_runners, open_runner
from dhox.bench.runners.streams import concurrent_streams
from dhox.bench.sensors.conditions import ConditionsWatch
from dhox.bench.sensors.energy import find_meter, measure_energy, measure_idle
from dhox.bench.sensors.meter import Meter
from dhox.bench.sensors.nvml import gpu_card
from dhox.bench.trtexec import trtexec_checks
from dhox.console import say
from dhox.data.images import UnreadableImageError
from dhox.errors import DhoxError, run_failure
from dhox.system.jetson_state import SharedMemory, own_memory, shared_memory
from dhox.system.machine import device_card

SEED = 0  # of the order in which the cells of a round are measured
ENERGY_SCOPE = "e2e"  # what an application pays for: copies included, decoding not


@dataclass(frozen=True)
class BenchResult:
    """What `dhox bench` reports: its directory, and bench.json."""

    directory: Path
    bench: Bench


@dataclass(frozen=True)
class Plan:
    """What is measured, and how; `device` is one of `choose_device`."""

    options: BenchOptions
    device: str
    pairs: list[Pair]
    images: TimedImages
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    @property
    def trust_engine(self) -> bool:
        """Whether engines are loaded that this user did not build here."""
        return self.options.where.trust_engine


def bench(paths: list[Path], options: BenchOptions) -> BenchResult:
    """Measure models on this machine and write the bench directory.

    `paths`: export directories, model files of exports, ONNX files that the contract describes. A model that fails
    is named in `not_run`; a stopping signal or an error ends the measurement and keeps what is there (status
    interrupted). Raises DhoxError for a damaged export, a device that is not there, bad images, and where no model can
    be run.
    """
    check(options)
    plan, found = prepare(paths, options)
    with ExitStack() as stack:
        if found.meter is not None:
            stack.enter_context(closing(found.meter))
        stack.enter_context(one_at_a_time())
        name = f"{found.card.host}-{datetime.now():%Y%m%d-%H%M%S}"
        out = options.output.out or free_name(bench_folder(found.models[0]) / name)
        folder = stack.enter_context(output_directory(out, BENCH_FILE, BENCH_SCHEMA, options.output.overwrite))
        status, error = _measure_and_keep(plan, found, folder)
        try:
            content = write_results(folder, found, status)
        except DhoxError as err:
            raise DhoxError(err.reason, f"{err.fix} What could be written is in {folder}.") from err
    if error is not None:
        say(f"What was measured before the error is in {out}.")
        raise _early_end(error) from error
    return BenchResult(out, content)


def prepare(paths: list[Path], options: BenchOptions) -> tuple[Plan, Found]:
    """Everything that can be refused before anything is measured: models, device, images, sensors."""
    what, how, where = options.what, options.how, options.where
    models = with_cameras(open_models(paths, what.contract, tuple(dict.fromkeys(what.precision))), how.scopes)
    device = choose_device(where.device, models)
    runners = tuple(dict.fromkeys(what.runner))
    for runner in runners:
        check_runner(runner, device)
    check_batches(models, how.batches)
    card = device_card(gpu_card())
    if options.output.out is not None:
        check_output(options.output.out, BENCH_FILE, BENCH_SCHEMA, options.output.overwrite)
    evaluation = evaluation_images(what.data, models)
    images = timed_images(models, evaluation.items)
    pairs = [(model, runner) for model in models for runner in runners or default_runners(device, model)]
    meter, energy_note = _open_meter(device, card) if how.energy else (None, "it was not asked for")
    settings = Settings(
        batches=list(how.batches), scopes=list(timed_scopes(models, how.scopes)), duration_s=how.duration,
        energy_s=how.energy,
        streams=list(how.stream_counts), rounds=FEWEST_ROUNDS, seed=SEED,
        runners=list(dict.fromkeys(runner for _, runner in pairs)), images=images.text,
    )  # fmt: skip
    found = Found(
        device_asked=where.device, card=card, settings=settings, models=models, answers=Answers(evaluation),
        meter=meter, energy_note=energy_note, not_run=_untested(pairs),
    )  # fmt: skip
    return Plan(options, device, pairs, images), found


def _untested(pairs: list[Pair]) -> list[NotRun]:
    """The camera files, whose accuracy is not measured here."""
    return [
        NotRun(what="accuracy", model=model.name, runner=runner, reason=NO_ACCURACY)
        for model, runner in pairs
        if model.camera is not None and model.camera.way == "graph"
    ]


def _open_meter(device: str, card: DeviceCard) -> tuple[Meter | None, str]:
    """The meter for the device, or None and why."""
    meter, note = find_meter(device)
    if meter is not None and card.sysroot:
        meter.close()
        return None, f"sensors below {card.sysroot} are a recording, not this machine's"
    return meter, note


def bench_folder(model: BenchModel) -> Path:
    """Where bench directories go: beside the export, or here for a model of another tool."""
    return model.export.absolute().parent / "bench" if model.export else Path.cwd() / "bench-results"


def _measure_and_keep(plan: Plan, found: Found, folder: Path) -> tuple[str, Exception | None]:
    """Measure all; the status of what was found, and the error that ended it early, if there is something to keep."""
    try:
        measure_all(plan, found, folder)
    except KeyboardInterrupt:
        say("Interrupted: what was measured so far is kept.")
        return "interrupted", None
    except Exception as err:
        if not (found.timed or found.answers.probs):
            raise
        found.not_run.append(NotRun(what="bench", reason=run_failure(err) or type(err).__name__))
        return "interrupted", err
    return "complete", None


def _early_end(error: Exception) -> Exception:
    """What a user is told of an error that ended a bench; bugs stay what they are."""
    reason = run_failure(error)
    if reason is None or isinstance(error, DhoxError):
        return error
    return DhoxError(f"The bench ended early ({reason}).", "Free memory or disk space, or leave out what failed.")


def measure_all(plan: Plan, found: Found, folder: Path) -> None:
    """Idle power, answers, then batch by batch, with the state of the machine watched meanwhile."""
    watched: AbstractContextManager[SharedMemory | None] = shared_memory() if found.card.jetson else nullcontext()
    with stopping_signals() as stop, watched as memory:
        _idle_power(found)
        able = _evaluate_all(plan, found, stop)
        with ConditionsWatch(plan.device) as conditions:
            try:
                for batch in plan.options.how.batches if able else ():
                    if found.runners:  # after the last one they are written as they are
                        write_results(folder, found, "running")
                    _measure_batch(plan, able, batch, found, conditions, stop)
            finally:
                found.conditions = conditions.summary()
                found.memory = memory.summary() if memory else own_memory()


def _idle_power(found: Found) -> None:
    """Idle power, before any model is opened; without it no energy is measured."""
    if found.meter is None:
        return
    say(f"Idle power by {found.meter.name}")
    try:
        found.idle = measure_idle(found.meter)
    except DhoxError as err:
        found.energy_note = str(err)


def _evaluate_all(plan: Plan, found: Found, stop: Stop) -> list[Pair]:
    """Evaluate every pair that can be opened and run, and answer with those to be timed; the others go to `not_run`.

    One pass is enough of a precision that this device emulates, whose time says nothing. Raises the first error where
    none can be run, and UnreadableImageError for an image that nobody can read.
    """
    able: list[Pair] = []
    errors: list[DhoxError] = []
    for model, name in plan.pairs:
        start = time.perf_counter()
        try:
            with closing(open_runner(model, name, plan.device, plan.trust_engine)) as runner:
                open_s, facts = time.perf_counter() - start, runner.facts
                evaluate(model, runner, plan.options.what.data, found.answers)
        except UnreadableImageError:
            raise
        except Exception as err:
            stop.check()
            missing = NotRun(what="model", model=model.name, runner=name, reason=reason_of(err))
            found.not_run.append(missing)
            errors.append(err if isinstance(err, DhoxError) else _not_runnable(missing, err))
            continue
        stop.check()
        if facts.emulated:
            batch = plan.options.how.batches[0]
            row = RunnerRow(model=model.name, runner=name, batch=batch, open_s=open_s, facts=facts)
            _leave_untimed(plan, found, row)
        else:
            able.append((model, name))
    if len(errors) == len(plan.pairs):
        raise errors[0]
    return able


def _leave_untimed(plan: Plan, found: Found, row: RunnerRow) -> None:
    """Say of an emulated model what ran it, and that nothing is timed."""
    say(f"{row.model} by {row.runner} is not timed: {row.facts.emulated}.")
    found.runners.append(row)
    if plan.options.how.stream_counts:
        reason = "this device emulates its precision"
        found.not_run.append(NotRun(what="streams", model=row.model, runner=row.runner, reason=reason))


def _not_runnable(missing: NotRun, err: Exception) -> DhoxError:
    """The error for a model that its runtime could not open or run."""
    fix = "Measure it with another runner, or leave it out."
    return DhoxError(f"{missing.text}.", "Free memory, or leave it out." if isinstance(err, MemoryError) else fix)


def _measure_batch(
    plan: Plan, able: list[Pair], batch: int, found: Found, conditions: ConditionsWatch, stop: Stop
) -> None:
    """Latency, interleaved, then energy, trtexec and streams at one batch size."""
    how = plan.options.how
    with opened(able, plan.device, plan.trust_engine, found.not_run) as models:
        cells = cells_of_batch(models, batch, plan.images, found.not_run)
        found.runners += [
            RunnerRow(model=m.model.name, runner=m.runner.name, batch=batch, open_s=m.open_s, facts=m.runner.facts)
            for m in models
        ]
        timed = [cell for cell in cells if cell.key.scope in found.settings.scopes]
        conditions.throttled()  # what was before is no row's
        try:
            failed = measure(timed, how.duration, FEWEST_ROUNDS, plan.rng, found.timed, f"batch {batch}", stop)
        finally:
            found.throttled |= {batch} if conditions.throttled() else set()
        found.not_run += [NotRun(what="latency", reason=why, **key._asdict()) for key, why in failed.items()]
        _energy_of(cells, how.energy, found)
        trtexec_checks([one for one in models if one.model.camera is None], batch, plan.images, found)
    for pair in able:
        _measure_streams(plan, pair, batch, found)
    stop.check()


def _energy_of(cells: list[Cell], seconds: float, found: Found) -> None:
    """A window of its own for every model, at ENERGY_SCOPE."""
    if found.meter is None or found.idle is None:
        return
    models = {model.name: model for model in found.models}
    for cell in cells:
        key = cell.key
        if key.scope != ENERGY_SCOPE:
            continue
        say(f"Energy of {key.model} by {key.runner}, batch {key.batch}: {seconds:g} s")
        accuracy = found.answers.accuracy_of(models[key.model], key.runner)
        try:
            row, trace = measure_energy(found.meter, cell, found.idle, seconds, accuracy=accuracy)
        except Exception as err:
            missing = NotRun(what="energy", model=key.model, runner=key.runner, batch=key.batch, reason=reason_of(err))
            found.not_run.append(missing)
            continue
        found.energy.append(row)
        found.traces[row.trace] = trace


def _measure_streams(plan: Plan, pair: Pair, batch: int, found: Found) -> None:
    """Every number of streams that was asked for, one after the other; what cannot be run goes to `not_run`."""
    (model, runner), counts = pair, plan.options.how.stream_counts
    for count in counts:
        try:
            if model.camera is not None:
                raise DhoxError("streams are measured of the ordinary files.", "Leave --streams out.")
            model.check_batch(batch)
            pixels = model.tensors.graph_input(plan.images.pixels(model, batch))
            one = partial(open_runner, model, runner, plan.device, plan.trust_engine)
            row = concurrent_streams(one, pixels, count, plan.options.how.duration)
        except Exception as err:
            name, why = model.name, reason_of(err)
            missing = NotRun(what="streams", model=name, runner=runner, batch=batch, streams=count, reason=why)
            found.not_run.append(missing)
            continue
        found.streams.append(StreamRow(model=model.name, runner=runner, batch=batch, streams=count, **asdict(row)))

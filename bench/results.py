"""What a bench has found so far, and the files that it becomes: bench.json, samples.npz and predictions.csv."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from dhox.artefacts.bench import Bench, NotRun, RunnerRow, Settings
from dhox.artefacts.bench_energy import Energy, EnergyRow, IdlePower
from dhox.artefacts.bench_latency import CrossCheck, Key, LatencyRow, StreamRow
from dhox.artefacts.files import BENCH_FILE
from dhox.artefacts.machine import Conditions, DeviceCard, Memory
from dhox.artefacts.predictions import PREDICTIONS_FILE, write_predictions
from dhox.artefacts.record import write_record
from dhox.artefacts.samples import SAMPLES_FILE, Calls, Samples, Trace, samples_name, write_samples
from dhox.bench.bench_models import BenchModel
from dhox.bench.camera_models import METHOD as CAMERAS
from dhox.bench.camera_models import camera_groups
from dhox.bench.cells import SCOPES
from dhox.bench.evaluate import Answers, accuracy_content, ledgers_content, prediction_rows
from dhox.bench.latency_statistics import METHOD as STATISTICS
from dhox.bench.latency_statistics import comparisons, latency_statistics
from dhox.bench.rounds import METHOD, Timed
from dhox.bench.runners.streams import METHOD as STREAMS
from dhox.bench.sensors import energy
from dhox.bench.sensors.meter import Meter
from dhox.system.environment import now, versions


@dataclass
class Found:
    """Everything that bench.json will say; a bench that is interrupted keeps it."""

    device_asked: str
    card: DeviceCard
    settings: Settings
    models: list[BenchModel]
    answers: Answers
    meter: Meter | None
    energy_note: str
    not_run: list[NotRun]
    runners: list[RunnerRow] = field(default_factory=list)
    timed: dict[Key, Timed] = field(default_factory=dict)
    throttled: set[int] = field(default_factory=set)  # batch sizes during whose rounds the device was
    idle: IdlePower | None = None
    energy: list[EnergyRow] = field(default_factory=list)
    traces: dict[str, Trace] = field(default_factory=dict)
    streams: list[StreamRow] = field(default_factory=list)
    conditions: Conditions | None = None
    memory: Memory | None = None
    cross_checks: list[CrossCheck] = field(default_factory=list)

    def whole(self) -> dict[Key, Timed]:
        """The cells that an interruption left with two rounds or more."""
        return {key: timed for key, timed in self.timed.items() if len(timed.rounds) >= 2}

    def latency_rows(self) -> list[LatencyRow]:
        """`latency` of bench.json. Models of one batch size take turns, so throttling is theirs in common."""
        rows = []
        for key, timed in self.whole().items():
            numbers = latency_statistics(timed.rounds, key.batch, np.array(timed.started_s))
            more = ["not steady"] * (not timed.warm_up.steady) + ["throttled"] * (key.batch in self.throttled)
            row = msgspec.structs.asdict(numbers) | {"flags": [*numbers.flags, *more]}
            row |= {"samples": samples_name(*key), "warm_up": timed.warm_up}
            rows.append(LatencyRow(**key._asdict(), **row))
        return rows


def write_results(folder: Path, found: Found, status: str) -> Bench:
    """Write the three files; answers with bench.json. `status`: running, interrupted or complete, which comes last."""
    bench = _bench_content(found, status)
    # First, since on a full disk it matters most; as running, since it is whole only with the files beside it.
    write_record(folder / BENCH_FILE, msgspec.structs.replace(bench, status="running"))
    calls = {key: Calls(timed.rounds, np.array(timed.started_s)) for key, timed in found.whole().items()}
    write_samples(folder / SAMPLES_FILE, Samples(calls, found.traces))
    if found.answers.probs:
        write_predictions(folder / PREDICTIONS_FILE, prediction_rows(found.models, found.answers))
    if status != "running":
        write_record(folder / BENCH_FILE, bench)
    return bench


def _bench_content(found: Found, status: str) -> Bench:
    rounds = {key: timed.rounds for key, timed in found.timed.items() if timed.rounds}  # an interruption can leave none
    return Bench(
        status=status,  # type: ignore[arg-type]
        finished_at=now(),
        device_asked=found.device_asked,
        device=found.card,
        settings=found.settings,
        method=method(found),
        models=[model.row() for model in found.models],
        runners=found.runners,
        latency=found.latency_rows(),
        comparisons=comparisons(rounds, camera_groups(found.models)),
        streams=found.streams,
        conditions=found.conditions,
        memory=found.memory,
        energy=Energy(note=f"not measured: {found.energy_note}")
        if found.meter is None or found.idle is None
        else energy.energy_content(found.meter, found.idle, found.energy),
        accuracy=accuracy_content(found.models, found.answers),
        ledgers=ledgers_content(found.models, found.answers),
        golden=found.answers.golden,
        cross_checks=found.cross_checks,
        not_run=found.not_run,
        environment=versions(),
    )


def method(found: Found) -> list[str]:
    """How the numbers came about, in sentences."""
    lines = [METHOD, *STATISTICS, *[f"Timing scope {name}: {SCOPES[name]}." for name in found.settings.scopes]]
    lines += [CAMERAS] if any(model.camera for model in found.models) else []
    lines += [STREAMS] if found.streams else []
    return [*lines, energy.METHOD] if found.energy else lines

"""What a bench has found so far, and the files that it becomes: bench.json, samples.npz and predictions.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, write_bytes, write_json, write_npz
from dhox.bench.accuracy import predictions_csv
from dhox.bench.bench_models import Subject, subject_row
from dhox.bench.evaluate import Verdicts, accuracy_content, ledgers_content
from dhox.bench.latency_statistics import METHOD as STATISTICS
from dhox.bench.latency_statistics import comparisons
from dhox.bench.rounds import METHOD, Key, Samples
from dhox.bench.runners.streams import METHOD as STREAMS
from dhox.bench.scopes import SCOPES
from dhox.bench.sensors import energy
from dhox.bench.sensors.meter import Meter
from dhox.bench.timed_cells import latency_rows, sample_arrays
from dhox.data.dataset import Item, class_numbers
from dhox.runtimes.runtime import Session
from dhox.system.environment import now, versions


@dataclass
class Found:
    """Everything that bench.json will say; a bench that is interrupted keeps it."""

    device_asked: str
    card: dict[str, Any]
    settings: dict[str, Any]
    subjects: list[Subject]
    items: list[Item]
    where: Path | None
    accuracy_note: str | None
    meter: Meter | None
    energy_note: str
    not_run: list[str]
    verdicts: Verdicts = field(default_factory=Verdicts)
    runners: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[Key, Samples] = field(default_factory=dict)
    throttled: set[int] = field(default_factory=set)  # batch sizes during whose rounds the device was
    idle: dict[str, Any] | None = None
    energy: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, np.ndarray] = field(default_factory=dict)  # of power, as samples.npz names them
    streams: list[dict[str, Any]] = field(default_factory=list)
    conditions: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    cross_checks: list[dict[str, Any]] = field(default_factory=list)

    def add_runners(self, models: list[tuple[Subject, Session, float]], batch: int) -> None:
        """What the runners of a batch size really are, once they are bound."""
        self.runners += [
            {
                "subject": subject.name,
                "runner": runner.name,
                "batch": batch,
                "open_s": open_s,
                **msgspec.to_builtins(runner.facts),
            }
            for subject, runner, open_s in models
        ]

    def add_failures(self, failed: dict[Key, str]) -> None:
        """Cells that dropped out while they were timed."""
        for (subject, runner, batch, scope), words in failed.items():
            self.not_run.append(f"{subject} by {runner} at batch {batch}, {scope}, ended early: {words}")

    def emulated(self) -> dict[tuple[str, str], str]:
        """(subject, runner) whose time on this device says nothing about the one they are made for, and why."""
        return {
            (row["subject"], row["runner"]): row["precision_note"]
            for row in self.runners
            if row["device"] == "cpu" and row["precision_proven"] is None and row["precision_note"]
        }

    def accuracy_of(self, subject: str, runner: str) -> float | None:
        """Top-1 accuracy on the test images, in [0, 1]; None without images."""
        probs = self.verdicts.answers.get((subject, runner))
        if probs is None:
            return None
        classes = next(one.classes for one in self.subjects if one.name == subject)
        return float((probs.argmax(-1) == class_numbers(self.items, classes)).mean())


def write_results(folder: Path, found: Found, status: str) -> dict[str, Any]:
    """Write the three files; answers with the content of bench.json. `status`: running, interrupted or complete."""
    content = bench_content(found, status)
    write_json(folder / BENCH_FILE, content)  # first: on a full disk it matters most
    write_npz(folder / "samples.npz", **sample_arrays(found.samples), **found.traces)
    if found.verdicts.answers:
        classes = {subject.name: subject.classes for subject in found.subjects}
        write_bytes(folder / "predictions.csv", predictions_csv(found.verdicts.answers, classes, found.items))
    return content


def bench_content(found: Found, status: str) -> dict[str, Any]:
    """bench.json (its schema: bench/bench.schema.json)."""
    return {
        "schema": BENCH_SCHEMA,
        "status": status,
        "finished_at": now(),
        "device_asked": found.device_asked,
        "device": found.card,
        "settings": found.settings,
        "method": method(found),
        "subjects": [subject_row(subject) for subject in found.subjects],
        "runners": found.runners,
        "latency": latency_rows(found.samples, found.emulated(), found.throttled),
        "comparisons": comparisons(told_rounds(found)),
        "streams": found.streams,
        "conditions": found.conditions,
        "memory": found.memory,
        "energy": energy.not_measured(found.energy_note)
        if found.meter is None or found.idle is None
        else energy.energy_content(found.meter, found.idle, found.energy),
        "accuracy": accuracy_content(found.subjects, found.verdicts, found.items, found.where, found.accuracy_note),
        "ledgers": ledgers_content(found.subjects, found.verdicts),
        "golden": found.verdicts.golden,
        "cross_checks": found.cross_checks,
        "not_run": found.not_run,
        "environment": versions(),
    }


def told_rounds(found: Found) -> dict[Key, Sequence[np.ndarray]]:
    """The rounds of every cell whose time says something; an interruption can leave a cell without any."""
    emulated = found.emulated()
    return {key: taken.rounds for key, taken in found.samples.items() if taken.rounds and key[:2] not in emulated}


def method(found: Found) -> list[str]:
    """How the numbers came about, in sentences."""
    lines = [METHOD, *STATISTICS, *[f"Timing scope {name}: {SCOPES[name]}." for name in found.settings["scopes"]]]
    lines += [STREAMS] if found.streams else []
    return [*lines, energy.METHOD] if found.energy else lines

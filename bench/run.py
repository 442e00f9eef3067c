"""`dhox bench`: models to a bench directory, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dhox.bench.accuracy import evaluation_items, predictions_csv
from dhox.bench.boundaries import BOUNDARIES
from dhox.bench.contract_subject import check_batches
from dhox.bench.judge import Verdicts, accuracy_content, judge, ledger_content
from dhox.bench.measure import FEWEST_ROUNDS, METHOD, Key, Samples, measure
from dhox.bench.runners import check_runner, choose_device, default_runners
from dhox.bench.subjects import Subject, open_subjects, subject_row
from dhox.bench.timing import cells_of_batch, latency_rows, opened, sample_arrays, timed_images
from dhox.console import say
from dhox.environment import now, versions
from dhox.errors import DhoxError
from dhox.files import (
    BENCH_FILE,
    BENCH_SCHEMA,
    check_output,
    output_directory,
    write_bytes,
    write_json,
    write_npz,
)
from dhox.machine import device_card
from dhox.onnx_session import NO_CPU_KERNELS

SEED = 0  # of the order in which the cells of a round are measured


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
    boundaries: tuple[str, ...] = tuple(BOUNDARIES),
    duration_s: float = 4.0,
    data: Path | None = None,
    trust_engine: bool = False,
    overwrite: bool = False,
) -> BenchResult:
    """Measure models on this machine and write the bench directory.

    `paths`: export directories, model files of exports, ONNX files that `contract` describes. `out`: by default
    bench/HOST-TIME beside the first export. `duration_s`: per model, runner, batch and boundary. `data`: where the test
    split is, by default where the first export says. Ctrl-C ends the measurement and keeps what is there (status
    interrupted). Raises DhoxError for a damaged export, a device that is not there, and bad images.
    """
    found = open_subjects(paths, contract, precisions)
    used = choose_device(device, found)
    for runner in runners:
        check_runner(runner, used)
    subjects, not_run = runnable(found, used)
    check_batches(subjects, batches)
    card = device_card()
    out = out or default_out(subjects[0]) / f"{card['host']}-{datetime.now():%Y%m%d-%H%M%S}"
    check_output(out, BENCH_FILE, BENCH_SCHEMA, overwrite)
    items, where, accuracy_note = evaluation_items(data, subjects)
    images, encoded = timed_images(subjects, items)
    pairs = [(subject, runner) for subject in subjects for runner in runners or default_runners(used, subject)]

    verdicts, samples, facts, status = Verdicts(), dict[Key, Samples](), list[dict[str, Any]](), "complete"
    rng = np.random.default_rng(SEED)
    with output_directory(out, BENCH_FILE, BENCH_SCHEMA, overwrite) as folder:
        try:
            for pair in pairs:
                with opened([pair], used, trust_engine, not_run) as one:
                    for subject, runner, _ in one:
                        judge(subject, runner, items, where, verdicts)
            for batch in batches:
                with opened(pairs, used, trust_engine, not_run) as all_pairs:
                    cells = cells_of_batch(all_pairs, batch, boundaries, encoded, not_run)
                    facts += [
                        {
                            "subject": subject.name,
                            "runner": runner.name,
                            "batch": batch,
                            "open_s": open_s,
                            **runner.facts,
                        }
                        for subject, runner, open_s in all_pairs
                    ]
                    measure(cells, duration_s, FEWEST_ROUNDS, rng, samples, f"batch {batch}")
        except KeyboardInterrupt:
            status = "interrupted"
            say("Interrupted: what was measured so far is kept.")
        emulated = {
            row["subject"]: row["precision_note"] for row in facts if row["precision_note"] and row["device"] == "cpu"
        }
        content = {
            "schema": BENCH_SCHEMA,
            "status": status,
            "finished_at": now(),
            "device_asked": device,
            "device": card,
            "settings": {
                "batches": list(batches), "boundaries": list(boundaries), "duration_s": duration_s,
                "rounds": FEWEST_ROUNDS, "seed": SEED, "runners": list(dict.fromkeys(runner for _, runner in pairs)),
                "images": images,
            },
            "method": [METHOD, *[f"Boundary {name}: {BOUNDARIES[name]}." for name in boundaries]],
            "subjects": [subject_row(subject) for subject in subjects],
            "runners": facts,
            "latency": latency_rows(samples, emulated),
            "comparisons": [],
            "streams": [],
            "conditions": None,
            "energy": {
                "meter": None, "note": "not measured", "rails": [], "total": [], "estimate": False, "idle": None,
                "rows": [],
            },
            "accuracy": accuracy_content(subjects, verdicts, items, where, accuracy_note),
            "ledger": ledger_content(subjects, verdicts, where),
            "golden": verdicts.golden,
            "cross_checks": [],
            "not_run": not_run,
            "environment": versions(),
        }  # fmt: skip
        write_npz(folder / "samples.npz", **sample_arrays(samples))
        if verdicts.answers:
            classes = {subject.name: subject.classes for subject in subjects}
            write_bytes(folder / "predictions.csv", predictions_csv(verdicts.answers, classes, items))
        write_json(folder / BENCH_FILE, content)
    return BenchResult(out, content, all(row["passed"] for row in verdicts.golden))


def default_out(subject: Subject) -> Path:
    """Where bench directories go: beside the export, or here for a model of another tool."""
    return subject.export.absolute().parent / "bench" if subject.export else Path.cwd() / "bench-results"


def runnable(subjects: list[Subject], device: str) -> tuple[list[Subject], list[str]]:
    """The models that the device has kernels for, and why the others are not run. Raises DhoxError for none."""
    able = [subject for subject in subjects if not (device == "cpu" and subject.precision in NO_CPU_KERNELS)]
    if not able:
        raise DhoxError(f"ONNX Runtime's CPU provider has no {subjects[0].precision}. Use a GPU, or another precision.")
    return able, [
        f"{one.name} ({one.file.name}) not run: ONNX Runtime's CPU provider has no {one.precision}"
        for one in subjects
        if one not in able
    ]

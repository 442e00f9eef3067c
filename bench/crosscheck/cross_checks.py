"""Other tools' clocks beside ours: trtexec on the engines that were measured, LoadGen where a scenario is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from dhox.bench.bench_models import Subject
from dhox.bench.crosscheck.loadgen import cross_check_loadgen
from dhox.bench.crosscheck.trtexec import cross_check_trtexec, find_trtexec
from dhox.bench.results import Found
from dhox.bench.timed_cells import MOST_IMAGES, Pair, batch_pixels
from dhox.console import say
from dhox.errors import DhoxError
from dhox.evidence.statistics import percentile
from dhox.models.engines import read_sidecar
from dhox.runtimes.runtime import Session


def trtexec_checks(
    models: list[tuple[Subject, Session, float]], batch: int, encoded: list[bytes], found: Found
) -> None:
    """Every engine of a batch size, if trtexec is on this machine; what fails is named in `not_run`."""
    tool = find_trtexec()
    for subject, runner, _ in models:
        engine = runner.facts.engine
        if tool is None or engine is None:
            continue
        ours = {
            scope: percentile(np.concatenate(taken.rounds), 50) / 1e6
            for (name, by, size, scope), taken in found.samples.items()
            if (name, by, size) == (subject.name, runner.name, batch) and taken.rounds
        }
        say(f"trtexec: {subject.name} by {runner.name}, batch {batch}")
        shape = subject.tensors.graph_input(batch_pixels(subject, encoded, 1)).shape[1:]
        try:
            options = trtexec_options(Path(engine).parent)
            rows = cross_check_trtexec(
                Path(engine), batch, ours, trtexec=tool, input_shape=shape, input_name=subject.input_name,
                dynamic=subject.fixed_batch is None, graph=runner.facts.graph,
                version_compatible=options["version_compatible"], dla=options["dla"],
            )  # fmt: skip
        except DhoxError as err:
            found.not_run.append(f"trtexec of {subject.name} by {runner.name} at batch {batch} not run: {err}")
            continue
        found.cross_checks += [{"subject": subject.name, "runner": runner.name, **row} for row in rows]


def trtexec_options(folder: Path) -> dict[str, Any]:
    """What the engine in a folder was built with. Raises DhoxError where TensorRT's trtexec cannot load it."""
    sidecar = read_sidecar(folder)
    if sidecar.tensorrt.flavour != "tensorrt":
        raise DhoxError(
            "TensorRT-RTX built this engine, and trtexec loads TensorRT's.", "Build one with TensorRT for it."
        )
    return to_builtins(sidecar.options)


def loadgen_checks(
    pairs: list[Pair], device: str, scenario: str, trust_engine: bool, encoded: list[bytes], found: Found
) -> None:
    """Every (subject, runner) through one scenario of LoadGen; what fails is named in `not_run`."""
    for subject, runner in pairs:
        say(f"LoadGen {scenario}: {subject.name} by {runner}")
        pixels = batch_pixels(subject, encoded, min(len(encoded), MOST_IMAGES))
        try:
            found.cross_checks.append(
                cross_check_loadgen(subject, runner, device, scenario, pixels, trust_engine=trust_engine)
            )
        except DhoxError as err:
            found.not_run.append(f"LoadGen {scenario} of {subject.name} by {runner} not run: {err}")

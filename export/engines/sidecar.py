"""Writing an engine: the plan, and engine.json beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.engine import (
    ENGINE_FILE,
    PLAN_FILE,
    Builder,
    BuiltFor,
    CompiledPrecision,
    Engine,
    EngineOptions,
    EnginePrecision,
    Plan,
    SourceFile,
)
from dhox.artefacts.files import write_bytes
from dhox.artefacts.golden import GoldenResult
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.record import write_record
from dhox.export.engines.compile_engine import Compiled
from dhox.models import engines
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.tensorrt_api import TensorRT
from dhox.system.environment import now
from dhox.system.jetson import board_name, jetson_card

TRUST_NOTE = (
    "The hashes prove integrity, not trust: an engine can run any code when it is loaded. dhox loads it for the user "
    "who built it on this machine, for others only with --trust-engine."
)
NO_GPU = "not run: no GPU here"


@dataclass(frozen=True)
class Job:
    """What is to be built: an ONNX file in its precision, by a TensorRT, for a GPU (None: for every one)."""

    onnx: Path
    sha256: str
    precision: EnginePrecision
    options: EngineOptions
    trt: TensorRT
    device: Gpu | None


@dataclass(frozen=True)
class Proof:
    """What was proven of a compiled engine; None with the reason in the note beside it."""

    compiled: CompiledPrecision | None = None
    compiled_note: str | None = None
    golden: GoldenResult | None = None
    golden_note: str | None = f"{NO_GPU}; whoever loads the engine runs it first"
    ledger: DeviceRow | None = None
    ledger_note: str | None = NO_GPU


def write_engine(partial: Path, folder: Path, job: Job, built: Compiled, proof: Proof) -> Engine:
    """Write a plan with its sidecar into `partial`, which becomes `folder`; this user trusts it from now on."""
    digest = hashlib.sha256(built.plan).hexdigest()
    board = jetson_card()
    engine = Engine(
        finished_at=now(), folder=folder.name, precision=job.precision, onnx=SourceFile(job.onnx.name, job.sha256),
        engine=Plan(PLAN_FILE, len(built.plan), digest),  # type: ignore[arg-type]
        tensorrt=Builder(job.trt.flavour, job.trt.version),  # type: ignore[arg-type]
        device=BuiltFor(
            job.device.name if job.device else None, job.device.compute_capability if job.device else None,
            engines.platform_name(), board_name(), board.jetpack if board else None,
        ),
        options=job.options, dla_fallback=built.on_gpu, parsed=built.parsed, build_seconds=built.seconds,
        trust=TRUST_NOTE, **vars(proof),
    )  # fmt: skip
    write_bytes(partial / PLAN_FILE, built.plan)
    engines.record_trust(digest, folder)
    write_record(partial / ENGINE_FILE, engine)
    return engine


def untold(compiled: CompiledPrecision | None, source: str) -> str | None:
    """Why there is no precision of a compiled engine."""
    return None if compiled else f"not run: the {source} does not tell the types of most layers"

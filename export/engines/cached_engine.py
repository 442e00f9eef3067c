"""The engine of an ONNX file that has no export: built on this machine by this user, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from msgspec import to_builtins

from dhox.artefacts.engine import ENGINE_FILE, PLAN_FILE, Engine, EngineOptions, EnginePrecision
from dhox.artefacts.files import output_directory, sha256, user_cache
from dhox.errors import DhoxError
from dhox.export.engines.compile_engine import compile_onnx
from dhox.export.engines.precision_proof import check_promise, compiled_precision, layers_of_inspector
from dhox.export.engines.sidecar import Job, Proof, untold, write_engine
from dhox.models import engines
from dhox.runtimes.cuda import gpu
from dhox.runtimes.tensorrt_api import import_tensorrt, message_logger
from dhox.runtimes.tensorrt_session import EngineSession
from dhox.system.jetson import board_name

OPTIONS = EngineOptions(largest=32)


def open_cached_engine(
    onnx: Path, precision: EnginePrecision, names: tuple[str, str], name: str = "tensorrt"
) -> EngineSession:
    """The engine of an ONNX file, built now unless this user built it here before.

    It is for batches of 1 to 32, or for the file's own where that is fixed. There is no golden check: without an export
    nothing says what the file should answer. `names`: of its input and its output; `name`: of the runner, see
    `open_engine`. Raises DhoxError in TensorRT's own words, and GateFailedError where the engine is not of the file's
    precision.
    """
    job = Job(onnx, sha256(onnx), precision, OPTIONS, import_tensorrt(), gpu())
    folder = engine_folder(job)
    try:
        engine = engines.read_sidecar(folder)
        plan = engines.read_plan(folder, engine, trust_engine=False)
    except DhoxError:  # not there yet, unfinished, or not the file that this user built
        engine, plan = build(job, names, folder)
    facts = engines.engine_facts(engine, folder / PLAN_FILE, name.endswith(":graph"))
    return EngineSession(job.trt, plan, names=names, facts=facts, name=name)


def engine_folder(job: Job) -> Path:
    """$XDG_CACHE_HOME/dhox/engines/HASH of all that the engine depends on."""
    assert job.device is not None
    trt, device = job.trt, asdict(job.device)
    what = [
        job.sha256,
        trt.flavour,
        trt.version,
        device,
        engines.platform_name(),
        board_name(),
        to_builtins(job.options),
    ]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return user_cache("engines") / key


def build(job: Job, names: tuple[str, str], folder: Path) -> tuple[Engine, bytes]:
    """Build, prove and keep an engine; answers with its sidecar and itself."""
    with output_directory(folder, ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite=True) as partial:
        built = compile_onnx(job.onnx, job.precision, job.trt, job.device, job.options, message_logger(job.trt))
        with closing(EngineSession(job.trt, built.plan, names=names)) as session:
            layers = layers_of_inspector(session.layer_information())
        compiled = compiled_precision(layers, built.products, job.precision, "inspector")
        check_promise(job.precision, built.parsed, compiled)
        proof = Proof(
            compiled, untold(compiled, "inspector"), golden_note="not run: no export says what the file should answer",
            ledger_note="not run: no export, so no ledger",
        )  # fmt: skip
        engine = write_engine(partial, folder, job, built, proof)
    return engine, built.plan

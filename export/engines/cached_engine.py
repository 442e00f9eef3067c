"""The engine of an ONNX file that has no export: built on this machine by this user, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dhox.artefacts.files import output_directory, sha256, user_cache
from dhox.errors import DhoxError
from dhox.export.engines.compile_engine import Options, compile_onnx
from dhox.export.engines.precision_proof import check_promise, engine_precision, layers_of_inspector
from dhox.export.engines.sidecar import precision_record, write_engine
from dhox.models import engines
from dhox.runtimes.cuda import Gpu, gpu
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt, message_logger
from dhox.runtimes.tensorrt_session import EngineSession

OPTIONS = Options(1, 8, 32, None, False, False, None)


def open_cached_engine(
    onnx: Path, precision: str, names: tuple[str, str], name: str = "tensorrt"
) -> EngineSession:  # fmt: skip
    """The engine of an ONNX file, built now unless this user built it here before.

    It is for batches of 1 to 32, or for the file's own where that is fixed. There is no golden check: without an export
    nothing says what the file should answer. `names`: of its input and its output; `name`: of the runner, see
    `open_engine`. Raises DhoxError in TensorRT's own words, and GateFailedError where the engine is not of the file's
    precision.
    """
    here, trt = gpu(), import_tensorrt()
    folder = engine_folder(onnx, trt, here)
    try:
        sidecar = engines.read_sidecar(folder)
        plan = engines.read_plan(folder, sidecar, trust_engine=False)
    except DhoxError:  # not there yet, unfinished, or not the file that this user built
        sidecar, plan = build(onnx, precision, names, folder, trt, here)
    facts = engines.engine_facts(sidecar, folder / engines.PLAN_FILE, name.endswith(":graph"))
    return EngineSession(trt, plan, names=names, facts=facts, name=name)


def engine_folder(onnx: Path, trt: TensorRT, here: Gpu) -> Path:
    """$XDG_CACHE_HOME/dhox/engines/HASH of all that the engine depends on."""
    what = [sha256(onnx), trt.flavour, trt.version, asdict(here), engines.platform_name(), asdict(OPTIONS)]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return user_cache("engines") / key


def build(
    onnx: Path, precision: str, names: tuple[str, str], folder: Path, trt: TensorRT, here: Gpu
) -> tuple[dict[str, Any], bytes]:
    """Build, prove and keep an engine; answers with its sidecar and itself."""
    with output_directory(folder, engines.ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite=True) as partial:
        start = time.perf_counter()
        compiled = compile_onnx(onnx, precision, trt, here, OPTIONS, message_logger(trt))
        seconds = time.perf_counter() - start
        with closing(EngineSession(trt, compiled.plan, names=names)) as session:
            layers = layers_of_inspector(session.layer_information())
        proof = precision_record(engine_precision(layers, compiled.products, precision), "inspector")
        check_promise(precision, compiled.graph, proof)
        sidecar = write_engine(
            partial, folder, compiled, onnx={"file": onnx.name, "sha256": sha256(onnx)}, precision=precision, trt=trt,
            device=here, options=OPTIONS, seconds=seconds, proof=proof,
            golden={"status": "not run: no export says what the file should answer"},
            ledger={"note": "not run: no export, so no ledger", "row": None},
        )  # fmt: skip
    return sidecar, compiled.plan

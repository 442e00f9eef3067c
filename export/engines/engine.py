"""TensorRT engines of an export, built where they will run, proven and checked before they are kept. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import check_output, output_directory, read_json
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.device_ledger import device_row, ledger_items
from dhox.evidence.ledger import LEDGER_SCHEMA
from dhox.export.engines.compile_engine import Options, compile_onnx
from dhox.export.engines.precision_proof import check_promise, engine_precision, layers_of_inspector, layers_of_log
from dhox.export.engines.sidecar import precision_record, write_engine
from dhox.models import engines
from dhox.models.export_directory import artefact, check_file, read_manifest
from dhox.runtimes.cuda import Gpu, NoGpuError, gpu
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt, message_logger
from dhox.runtimes.tensorrt_session import EngineSession
from dhox.runtimes.tensors import Tensors

HALF = "fp16"  # int8's share is of multiply-adds, which a parsed network does not count


def parse_batches(text: str) -> tuple[int, int, int]:
    """`--batch MIN:OPT:MAX`, or one number for all three. Raises UsageError where it is neither."""
    found = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text.strip())
    batches = tuple(int(number or found[1]) for number in found.groups()) if found else (0, 0, 0)
    smallest, usual, largest = batches
    if not 1 <= smallest <= usual <= largest:
        raise UsageError(
            f"--batch {text} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX.",
            "Write for example --batch 1:8:16, or --batch 8 for that size alone.",
        )
    return smallest, usual, largest


def build_engines(
    export: Path,
    *,
    precisions: list[str] | None = None,
    batches: tuple[int, int, int] = (1, 8, 16),
    workspace_mib: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    dla: int | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Build an engine of each precision (the export's default one) into EXPORT/engines/; answers with their sidecars.

    `batches`: smallest, usual and largest of the optimisation profile. `dla`: the DLA core to build for. Raises
    UsageError for contradictory options, DhoxError where TensorRT, a GPU, memory or an artefact is missing, and
    GateFailedError (nothing kept) where an engine has not the precision that was asked for or fails the golden check.
    """
    options = Options(*batches, workspace_mib, version_compatible, hardware_compatible, dla)
    check_options(options)
    manifest = read_manifest(export)
    wanted: list[str | None] = [*dict.fromkeys(precisions)] if precisions else [None]
    entries = [artefact(manifest, precision) for precision in wanted]
    trt = import_tensorrt()
    device = find_gpu(trt)
    folders = [engine_folder(export, entry, trt, device, options) for entry in entries]
    for entry, folder in zip(entries, folders, strict=True):
        if dla is not None and entry["precision"] not in {"fp16", "int8"}:
            raise UsageError("DLA computes in fp16 and int8 only.", "Leave out --dla, or build the fp16 model.")
        check_output(folder, engines.ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite)
    return [
        build_engine(export, manifest, entry, folder, trt, device, options, overwrite)
        for entry, folder in zip(entries, folders, strict=True)
    ]


def check_options(options: Options) -> None:
    """Raise UsageError for options that contradict each other."""
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise UsageError(
            f"--workspace {options.workspace_mib} is no amount of MiB.", "Use for example --workspace 512."
        )
    if options.dla is not None and options.smallest != options.largest:
        raise UsageError("DLA takes one batch size only.", "Use for example --batch 8 with --dla.")
    if options.dla is not None and options.hardware_compatible:
        raise UsageError("--dla binds an engine to its board.", "Leave out --hardware-compatible.")


def find_gpu(trt: TensorRT) -> Gpu | None:
    """The GPU, or None where TensorRT-RTX builds without one. Raises DhoxError where TensorRT cannot."""
    try:
        return gpu()
    except NoGpuError as err:
        if trt.flavour == "tensorrt":
            raise DhoxError("TensorRT builds an engine on the GPU that will run it.", f"{err}") from err
        return None


def engine_folder(export: Path, entry: dict[str, Any], trt: TensorRT, device: Gpu | None, options: Options) -> Path:
    """EXPORT/engines/SM-TRT-PRECISION-HASH; the hash is of the ONNX file, the GPU's name and the options."""
    sm = f"sm{device.compute_capability.replace('.', '')}" if device else "any"
    flavour = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}[trt.flavour]
    what = json.dumps([entry["sha256"], device.name if device else None, asdict(options)])
    key = hashlib.sha256(what.encode()).hexdigest()[:8]
    return export / "engines" / f"{sm}-{flavour}{trt.version}-{entry['precision']}-{key}"


def build_engine(
    export: Path,
    manifest: dict[str, Any],
    entry: dict[str, Any],
    folder: Path,
    trt: TensorRT,
    device: Gpu | None,
    options: Options,
    overwrite: bool,
) -> dict[str, Any]:
    """Build, prove and check one engine; it appears in `folder` only when all of that held."""
    onnx = check_file(export, entry["file"], entry["sha256"])
    precision = entry["precision"]
    with output_directory(folder, engines.ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite) as partial:
        logger = message_logger(trt)
        start = time.perf_counter()
        compiled = compile_onnx(onnx, precision, trt, device, options, logger)
        seconds = time.perf_counter() - start
        promised = entry["conversion"]["share"] if precision == HALF else None
        if device is None:
            layers, source = layers_of_log(logger.layers), "builder's log"
            proof = precision_record(engine_precision(layers, compiled.products, precision), source)
            check_promise(precision, compiled.graph, proof, promised)
            golden: dict[str, Any] = {"status": "not run: no GPU here; whoever loads the engine runs it first"}
            ledger: dict[str, Any] = {"note": "not run: no GPU here", "row": None}
        else:
            with closing(
                EngineSession(trt, compiled.plan, host_code=options.version_compatible, dla=options.dla)
            ) as session:
                layers, source = layers_of_inspector(session.layer_information()), "inspector"
                proof = precision_record(engine_precision(layers, compiled.products, precision), source)
                check_promise(precision, compiled.graph, proof, promised)
                golden = prove_golden(export, manifest, entry, session)
                ledger = engine_ledger(export, manifest, entry, session)
        return write_engine(
            partial, folder, compiled, onnx={"file": entry["file"], "sha256": entry["sha256"]}, precision=precision,
            trt=trt, device=device, options=options, seconds=seconds, proof=proof, golden=golden, ledger=ledger,
        )  # fmt: skip


def prove_golden(export: Path, manifest: dict[str, Any], entry: dict[str, Any], session: Session) -> dict[str, Any]:
    """`golden` of the sidecar. Raises GateFailedError where the engine does not give the golden outputs."""
    result = engines.run_golden(export, manifest, entry, session)
    if not result.passed:
        raise GateFailedError(
            f"The {entry['precision']} engine does not give the golden outputs of the export ({asdict(result)}). "
            "Nothing was kept.",
            "Check the ONNX model with `dhox bench`; if it passes, report this with the TensorRT version.",
        )
    return {"status": "passed", **asdict(result)}


def engine_ledger(export: Path, manifest: dict[str, Any], entry: dict[str, Any], session: Session) -> dict[str, Any]:
    """`ledger` of the sidecar: the engine's row on the images of the export's ledger, or why there is none."""
    ledger = read_json(check_file(export, "ledger.json", manifest["files"]["ledger.json"]), LEDGER_SCHEMA)
    classes = [item["name"] for item in manifest["classes"]]
    items, note = ledger_items(Path(manifest["data"]), classes, ledger)
    if note is not None:
        return {"note": note, "row": None}
    tensors = Tensors(Preprocessing.from_json(manifest["preprocessing"]), entry["input"])
    probs = predict(session, tensors, items, "Engine, ledger images")
    return {"note": None, "row": device_row(probs, entry["precision"], ledger, len(classes))}

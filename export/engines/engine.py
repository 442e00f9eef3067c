"""TensorRT engines of an export, built where they will run, proven and checked before they are kept. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from msgspec import to_builtins

from dhox.artefacts.camera import CameraModel
from dhox.artefacts.engine import ENGINE_FILE, Engine, EngineOptions
from dhox.artefacts.files import check_output, output_directory
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.manifest import Artefact, HalfConversion
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.device_ledger import device_row, ledger_items
from dhox.export.engines.compile_engine import Compiled, compile_onnx
from dhox.export.engines.precision_proof import check_promise, compiled_precision, layers_of_inspector, layers_of_log
from dhox.export.engines.sidecar import Job, Proof, untold, write_engine
from dhox.export.options import Engines, check_engines
from dhox.models import engines
from dhox.models.camera_files import CameraFile, camera_folder, golden_frames, open_camera
from dhox.models.export_directory import Export, open_export
from dhox.models.golden import run_golden
from dhox.runtimes.cuda import Gpu, NoGpuError, gpu
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt, message_logger
from dhox.runtimes.tensorrt_session import EngineSession

CAMERA_LEDGER = "not run: the ledger of a camera file is in its camera.json"


@dataclass(frozen=True)
class Source:
    """A model of an export that engines are built of: the artefact, or the camera file that was made from it."""

    entry: Artefact
    camera: CameraFile | None = None

    def job(self, export: Export, options: EngineOptions, trt: TensorRT, device: Gpu | None) -> Job:
        """What is to be built, its ONNX file checked."""
        if self.camera is not None:
            model = self.camera.model
            return Job(self.camera.onnx(), model.sha256, model.precision, options, trt, device)
        return Job(export.model(self.entry), self.entry.sha256, self.entry.precision, options, trt, device)


def build_engines(
    path: Path, options: Engines, overwrite: bool = False, cameras: list[CameraModel] | None = None
) -> list[Engine]:
    """Build an engine of each precision (the export's default one), or of each of its `cameras`, into EXPORT/engines/;
    answers with their sidecars.

    Raises UsageError for contradictory options, DhoxError where TensorRT, a GPU, memory or an artefact is missing, and
    GateFailedError (nothing kept) where an engine has not the precision that was asked for or fails the golden check.
    """
    check_engines(options)
    export = open_export(path)
    if cameras is None:
        sources = [Source(export.entry(precision)) for precision in dict.fromkeys(options.precision) or [None]]
    else:
        folders = [camera_folder(path, one.camera, one.precision) for one in cameras]
        files = [open_camera(export, folder) for folder in folders]
        sources = [Source(export.entry(one.model.precision), one) for one in files]
    if options.dla is not None and any(source.entry.precision == "fp32" for source in sources):
        raise UsageError("DLA computes in fp16 and int8 only.", "Leave out --dla, or build the fp16 model.")
    trt = import_tensorrt()
    device = find_gpu(trt)
    what = EngineOptions(
        *options.batches, options.workspace, options.version_compatible, options.hardware_compatible, options.dla
    )
    jobs = [source.job(export, what, trt, device) for source in sources]
    folders = [engine_folder(path, job) for job in jobs]
    for folder in folders:
        check_output(folder, ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite)
    return [
        _build_engine(export, source, job, folder, overwrite)
        for source, job, folder in zip(sources, jobs, folders, strict=True)
    ]


def find_gpu(trt: TensorRT) -> Gpu | None:
    """The GPU, or None where TensorRT-RTX builds without one. Raises DhoxError where TensorRT cannot."""
    try:
        return gpu()
    except NoGpuError as err:
        if trt.flavour == "tensorrt":
            raise DhoxError("TensorRT builds an engine on the GPU that will run it.", f"{err}") from err
        return None


def engine_folder(export: Path, job: Job) -> Path:
    """EXPORT/engines/SM-TRT-PRECISION-HASH; the hash is of the ONNX file, the GPU's name and the options."""
    device, trt = job.device, job.trt
    sm = f"sm{device.compute_capability.replace('.', '')}" if device else "any"
    flavour = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}[trt.flavour]
    what = json.dumps([job.sha256, device.name if device else None, to_builtins(job.options)])
    key = hashlib.sha256(what.encode()).hexdigest()[:8]
    return export / "engines" / f"{sm}-{flavour}{trt.version}-{job.precision}-{key}"


def _build_engine(export: Export, source: Source, job: Job, folder: Path, overwrite: bool) -> Engine:
    """Build, prove and check one engine; it appears in `folder` only when all of that held."""
    with output_directory(folder, ENGINE_FILE, engines.ENGINE_SCHEMA, overwrite) as partial:
        logger = message_logger(job.trt)
        built = compile_onnx(job.onnx, job.precision, job.trt, job.device, job.options, logger)
        conversion = source.entry.conversion
        promised = conversion.share if isinstance(conversion, HalfConversion) else None
        if job.device is None:
            compiled = compiled_precision(layers_of_log(logger.layers), built.products, job.precision, "builder's log")
            check_promise(job.precision, built.parsed, compiled, promised)
            proof = Proof(compiled, untold(compiled, "builder's log"))
        else:
            proof = prove(export, source, job, built, promised)
        return write_engine(partial, folder, job, built, proof)


def prove(export: Export, source: Source, job: Job, built: Compiled, promised: float | None) -> Proof:
    """Precision, golden outputs and ledger of an engine that this machine can run. Raises GateFailedError."""
    options, entry, camera = job.options, source.entry, source.camera
    with closing(EngineSession(job.trt, built.plan, host_code=options.version_compatible, dla=options.dla)) as session:
        layers = layers_of_inspector(session.layer_information())
        compiled = compiled_precision(layers, built.products, job.precision, "inspector")
        check_promise(job.precision, built.parsed, compiled, promised)
        golden = golden_frames(camera, session) if camera else run_golden(export, entry, session, export.tensors(entry))
        if not golden.passed:
            raise GateFailedError(
                f"The {entry.precision} engine fails the golden check of the export ({golden.failure}). Nothing was "
                "kept.",
                "Check the ONNX model with `dhox bench`; if it passes, report this with the TensorRT version.",
            )
        row, note = (None, CAMERA_LEDGER) if camera else engine_ledger(export, entry, session)
    return Proof(compiled, untold(compiled, "inspector"), golden, None, row, note)


def engine_ledger(export: Export, entry: Artefact, session: Session) -> tuple[DeviceRow | None, str | None]:
    """The engine's row on the images of the export's ledger, or the reason why there is none."""
    ledger, manifest = export.ledger(), export.manifest
    items, note = ledger_items(Path(manifest.data), manifest.names, ledger, export.images())
    if note is not None:
        return None, note
    probs = predict(session, export.tensors(entry), items, "Engine, ledger images")
    return device_row(probs, entry.precision, ledger, len(manifest.classes)), None

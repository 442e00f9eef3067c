"""Engines of an export: what their sidecars say, whether they fit this machine, and whether this user trusts them."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.engine import ENGINE_FILE, PLAN_FILE, Engine, Trust
from dhox.artefacts.files import make_folder
from dhox.artefacts.record import check_schema, read_head, read_record, schema_of, write_record
from dhox.errors import DhoxError, GateFailedError
from dhox.models.camera_files import CameraFile, golden_frames
from dhox.models.export_directory import Export
from dhox.models.golden import run_golden
from dhox.runtimes.cuda import Gpu, gpu
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt, numbers
from dhox.runtimes.tensorrt_session import EngineSession
from dhox.system.environment import now
from dhox.system.jetson import board_name

ENGINE_SCHEMA = schema_of(Engine)
LARGEST_PLAN, LARGEST_SIDECAR = 4 << 30, 16 << 20  # bytes that are read at most
BUILD = "Build one here: dhox export EXPORT --tensorrt"
EXPERIMENTAL = "TensorRT-RTX is experimental here: dhox builds and checks its engines, and has not run one yet"


def platform_name() -> str:
    """Operating system and processor architecture: engines never move between them."""
    return f"{platform.system()} {platform.machine()}"


def read_sidecar(folder: Path) -> Engine:
    """The sidecar of one engine. Raises DhoxError where it is missing, too large, of another schema, or unfinished."""
    path = folder / ENGINE_FILE
    if path.is_file() and path.stat().st_size > LARGEST_SIDECAR:
        raise DhoxError(f"{path} is larger than a sidecar can be.", f"Delete {folder}. {BUILD}")
    head = read_head(path)
    check_schema(path, head.schema, ENGINE_SCHEMA)
    if head.status != "complete":
        raise DhoxError(f"The engine in {folder} was not finished.", f"Delete it. {BUILD}")
    return read_record(path, Engine)


def mismatch(engine: Engine, trt: TensorRT, here: Gpu, system: str, board: str | None = None) -> str | None:
    """Why an engine cannot run on this machine, or None. `board`: see `board_name`.

    Without options an engine is for one GPU model, one Jetson module and one TensorRT version. A version-compatible one
    also runs on newer versions, a hardware-compatible one on other GPUs from compute capability 8.0 on. An engine that
    TensorRT-RTX built is for every GPU of compute capability 8.0 or more, unless it was built for older ones.
    """
    built, device, options = engine.tensorrt, engine.device, engine.options
    if built.flavour != trt.flavour:
        return f"it was built by {built.flavour}, this machine has {trt.flavour}"
    if device.platform != system:
        return f"it was built on {device.platform}, this is {system}"
    # Across majors NVIDIA supports the next one only.
    next_major = numbers(trt.version)[0] <= numbers(built.version)[0] + 1
    newer = numbers(trt.version) > numbers(built.version) and next_major
    if built.version != trt.version and not (options.version_compatible and newer):
        kind = "for that version or newer" if options.version_compatible else "for that version only"
        return f"it was built by {trt.flavour} {built.version} ({kind}), this machine has {trt.version}"
    portable = options.hardware_compatible or trt.flavour == "tensorrt_rtx"
    if portable:
        if numbers(here.compute_capability) < (8, 0):
            return f"it needs a GPU of compute capability 8.0 or more, {here.name} has {here.compute_capability}"
        return None
    if (device.gpu, device.compute_capability) != (here.name, here.compute_capability):
        return (
            f"it was built on {device.gpu} (compute capability {device.compute_capability}), this machine has "
            f"{here.name} ({here.compute_capability})"
        )
    if device.board != board:
        return f"it was built on {device.board or 'no Jetson'}, this is {board or 'no Jetson'}"
    return None


def trust_record(plan_sha256: str) -> Path:
    """Where this user's trust in one engine is kept: $XDG_STATE_HOME/dhox/engines/SHA256.json."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "dhox/engines" / f"{plan_sha256}.json"


def record_trust(plan_sha256: str, folder: Path) -> None:
    """Remember that this user built an engine here. One file per engine, so that two builds never race."""
    record = trust_record(plan_sha256)
    make_folder(record.parent, "Set XDG_STATE_HOME to a folder of your own.", 0o700)
    write_record(record, Trust(built_at=now(), host=platform.node(), folder=str(folder)))
    record.chmod(0o600)


def is_trusted(plan_sha256: str) -> bool:
    """Whether this user built the engine on this machine: a record that nobody else could have written."""
    try:
        status = trust_record(plan_sha256).stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return False
        return read_record(trust_record(plan_sha256), Trust).host == platform.node()
    except (OSError, DhoxError):
        return False


def read_plan(folder: Path, engine: Engine, trust_engine: bool) -> bytes:
    """The serialised engine, once its hash is the sidecar's and this user trusts it.

    Raises DhoxError otherwise: TensorRT executes what it deserialises, and a hash proves integrity, not trust.
    """
    path, expected = folder / PLAN_FILE, engine.engine
    if not path.is_file():
        raise DhoxError(f"{path} is missing, though {ENGINE_FILE} names it.", f"Copy the whole directory. {BUILD}")
    if path.stat().st_size != expected.bytes or expected.bytes > LARGEST_PLAN:
        raise DhoxError(f"{path} has not the size that {ENGINE_FILE} names.", f"Copy it again. {BUILD}")
    plan = path.read_bytes()
    digest = hashlib.sha256(plan).hexdigest()
    if digest != expected.sha256:
        raise DhoxError(f"{path} is not the file that {ENGINE_FILE} describes (its SHA-256 differs).", BUILD)
    if not (trust_engine or is_trusted(digest)):
        raise DhoxError(
            f"{folder} was not built on this machine by this user, and an engine can run any code when it is loaded.",
            f"{BUILD}, or add --trust-engine if you know who built it.",
        )
    return plan


def find_engine(
    export: Export, precision: str | None, trt: TensorRT, here: Gpu, camera: CameraFile | None = None
) -> tuple[Path, Engine]:
    """The newest engine of EXPORT/engines, of a precision or of any, that fits this machine and the export's files, or
    that camera file.

    Raises DhoxError with the reason against every other one where there is none.
    """
    fitting: list[tuple[str, Path, Engine]] = []
    reasons = []
    for path in sorted((export.path / "engines").glob(f"*/{ENGINE_FILE}")):
        try:
            engine = read_sidecar(path.parent)
            if precision not in (None, engine.precision):
                continue
            reason = mismatch(engine, trt, here, platform_name(), board_name())
            source = camera.model if camera else export.entry(engine.precision)
            if reason is None and source.sha256 != engine.onnx.sha256:
                reason = f"it was built from another ONNX file than {source.file}"
        except DhoxError as err:
            reason = str(err)
        if reason is None:
            fitting.append((engine.finished_at, path.parent, engine))
        else:
            reasons.append(f"{path.parent.name}: {reason}")
    if not fitting:
        kind = f"{precision} engine" if precision else "engine"
        against = f" ({'; '.join(reasons)})" if reasons else ""
        raise DhoxError(f"{export.path} holds no {kind} for this machine{against}.", BUILD)
    _, folder, engine = max(fitting, key=lambda entry: entry[0])
    return folder, engine


def engine_facts(engine: Engine, plan: Path, graph: bool = False) -> RunnerFacts:
    """What the sidecar of an engine proves. `plan`: the engine's file; `graph`: whether a CUDA graph is asked for."""
    precision, proof = engine.precision, engine.compiled
    notes = [EXPERIMENTAL] if engine.tensorrt.flavour == "tensorrt_rtx" else []
    if engine.dla_fallback:
        notes.append(f"{len(engine.dla_fallback)} layers run on the GPU, not on DLA")
    share = (proof or engine.parsed).share
    status = proof.status if proof else engine.compiled_note
    return RunnerFacts(
        device="tensorrt", provider_asked="tensorrt",
        provider=f"{engine.tensorrt.flavour} {engine.tensorrt.version}",
        graph_asked=graph, precision_asked=precision, precision_proven=precision if proof else None,
        precision_note=f"{status}; {share:.0%} of convolutions and matrix products {precision}",
        nodes_off_device=0, notes=notes, engine=str(plan),
    )  # fmt: skip


def open_engine(
    export: Export, precision: str | None, trust_engine: bool, name: str = "tensorrt", camera: CameraFile | None = None
) -> EngineSession:
    """The newest engine that fits this machine (see `find_engine`, `read_plan`), of a precision or of any, or of a
    camera file.

    `name`: of the runner; with the option `graph` it replays a CUDA graph. An engine that was built where no GPU could
    run it passes its golden check now, or GateFailedError is raised.
    """
    here = gpu()
    trt = import_tensorrt()
    folder, engine = find_engine(export, precision, trt, here, camera)
    entry = export.entry(engine.precision)
    if camera is None:
        export.model(entry)  # the file that it was built from says which classes it answers with
    else:
        camera.onnx()
    plan = read_plan(folder, engine, trust_engine)
    options = engine.options
    facts = engine_facts(engine, folder / PLAN_FILE, name.endswith(":graph"))
    session = EngineSession(trt, plan, host_code=options.version_compatible, dla=options.dla, facts=facts, name=name)
    if engine.golden is None:
        result = golden_frames(camera, session) if camera else run_golden(export, entry, session, export.tensors(entry))
        if not result.passed:
            session.close()
            raise GateFailedError(f"{folder} fails its golden check ({result.failure}).", f"Delete it. {BUILD}")
    return session

"""Engines of an export: what their sidecars say, whether they fit this machine, and whether this user trusts them."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import read_json, read_npz, write_json
from dhox.errors import DhoxError, GateFailedError
from dhox.models.export_directory import artefact, check_file
from dhox.models.golden import GoldenResult, check_golden
from dhox.runtimes.cuda import Gpu, gpu
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt, numbers
from dhox.runtimes.tensorrt_session import EngineSession
from dhox.runtimes.tensors import Tensors
from dhox.system.environment import now

ENGINE_SCHEMA, ENGINE_FILE, PLAN_FILE = "dhox.engine/1", "engine.json", "model.engine"
LARGEST_PLAN, LARGEST_SIDECAR = 4 << 30, 16 << 20  # bytes that are read at most
TRUST_SCHEMA = "dhox.trust/1"
BUILD = "Build one here: dhox export EXPORT --tensorrt"
EXPERIMENTAL = "TensorRT-RTX is experimental here: dhox builds and checks its engines, and has not run one yet"


def platform_name() -> str:
    """Operating system and processor architecture: engines never move between them."""
    return f"{platform.system()} {platform.machine()}"


def read_sidecar(folder: Path) -> dict[str, Any]:
    """The sidecar of one engine. Raises DhoxError where it is missing, too large, of another schema, or unfinished."""
    path = folder / ENGINE_FILE
    if path.is_file() and path.stat().st_size > LARGEST_SIDECAR:
        raise DhoxError(f"{path} is larger than a sidecar can be. Delete {folder}.", f"{BUILD}")
    sidecar = read_json(path, ENGINE_SCHEMA)
    if sidecar.get("status") != "complete":
        raise DhoxError(f"The engine in {folder} was not finished. Delete it.", f"{BUILD}")
    return sidecar


def mismatch(sidecar: dict[str, Any], trt: TensorRT, here: Gpu, system: str) -> str | None:
    """Why an engine cannot run on this machine, or None.

    Without options an engine is for one GPU model and one TensorRT version. A version-compatible one also runs on newer
    versions, a hardware-compatible one on other GPUs from compute capability 8.0 on. An engine that TensorRT-RTX built
    is for every GPU of compute capability 8.0 or more, unless it was built for older ones.
    """
    built, device, options = sidecar["tensorrt"], sidecar["device"], sidecar["options"]
    if built["flavour"] != trt.flavour:
        return f"it was built by {built['flavour']}, this machine has {trt.flavour}"
    if device["platform"] != system:
        return f"it was built on {device['platform']}, this is {system}"
    # Across majors NVIDIA supports the next one only.
    next_major = numbers(trt.version)[0] <= numbers(built["version"])[0] + 1
    newer = numbers(trt.version) > numbers(built["version"]) and next_major
    if built["version"] != trt.version and not (options["version_compatible"] and newer):
        kind = "for that version or newer" if options["version_compatible"] else "for that version only"
        return f"it was built by {trt.flavour} {built['version']} ({kind}), this machine has {trt.version}"
    portable = options["hardware_compatible"] or trt.flavour == "tensorrt_rtx"
    if portable:
        if numbers(here.compute_capability) < (8, 0):
            return f"it needs a GPU of compute capability 8.0 or more, {here.name} has {here.compute_capability}"
        return None
    if (device["gpu"], device["compute_capability"]) != (here.name, here.compute_capability):
        return (
            f"it was built on {device['gpu']} (compute capability {device['compute_capability']}), this machine has "
            f"{here.name} ({here.compute_capability})"
        )
    return None


def trust_record(plan_sha256: str) -> Path:
    """Where this user's trust in one engine is kept: $XDG_STATE_HOME/dhox/engines/SHA256.json."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "dhox/engines" / f"{plan_sha256}.json"


def record_trust(plan_sha256: str, folder: Path) -> None:
    """Remember that this user built an engine here. One file per engine, so that two builds never race."""
    record = trust_record(plan_sha256)
    try:
        record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise DhoxError(
            f"Could not create {record.parent}: {err.strerror}.", "Set XDG_STATE_HOME to a folder of your own."
        ) from err
    write_json(record, {"schema": TRUST_SCHEMA, "built_at": now(), "host": platform.node(), "folder": str(folder)})
    record.chmod(0o600)


def is_trusted(plan_sha256: str) -> bool:
    """Whether this user built the engine on this machine: a record that nobody else could have written."""
    try:
        status = trust_record(plan_sha256).stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return False
        return bool(read_json(trust_record(plan_sha256), TRUST_SCHEMA).get("host") == platform.node())
    except (OSError, DhoxError):
        return False


def read_plan(folder: Path, sidecar: dict[str, Any], trust_engine: bool) -> bytes:
    """The serialised engine, once its hash is the sidecar's and this user trusts it.

    Raises DhoxError otherwise: TensorRT executes what it deserialises, and a hash proves integrity, not trust.
    """
    path, expected = folder / PLAN_FILE, sidecar["engine"]
    if not path.is_file():
        raise DhoxError(f"{path} is missing, though {ENGINE_FILE} names it. Copy the whole directory.", f"{BUILD}")
    if path.stat().st_size != expected["bytes"] or expected["bytes"] > LARGEST_PLAN:
        raise DhoxError(f"{path} has not the size that {ENGINE_FILE} names. Copy it again.", f"{BUILD}")
    plan = path.read_bytes()
    digest = hashlib.sha256(plan).hexdigest()
    if digest != expected["sha256"]:
        raise DhoxError(f"{path} is not the file that {ENGINE_FILE} describes (its SHA-256 differs).", f"{BUILD}")
    if not (trust_engine or is_trusted(digest)):
        raise DhoxError(
            f"{folder} was not built on this machine by this user, and an engine can run any code when it is loaded.",
            f"{BUILD}, or add --trust-engine if you know who built it.",
        )
    return plan


def find_engine(
    export: Path, manifest: dict[str, Any], precision: str | None, trt: TensorRT, here: Gpu
) -> tuple[Path, dict[str, Any]]:
    """The newest engine of EXPORT/engines, of a precision or of any, that fits this machine and the export's files.

    Raises DhoxError with the reason against every other one where there is none.
    """
    fitting, reasons = [], []
    for path in sorted((export / "engines").glob(f"*/{ENGINE_FILE}")):
        try:
            sidecar = read_sidecar(path.parent)
            if precision not in (None, sidecar["precision"]):
                continue
            reason = mismatch(sidecar, trt, here, platform_name())
            if reason is None and artefact(manifest, sidecar["precision"])["sha256"] != sidecar["onnx"]["sha256"]:
                reason = "it was built from another ONNX file than this export's"
        except DhoxError as err:
            reason = str(err)
        except (KeyError, TypeError, ValueError) as err:
            reason = f"its {ENGINE_FILE} is incomplete ({err!r})"
        if reason is None:
            fitting.append((str(sidecar["finished_at"]), path.parent, sidecar))
        else:
            reasons.append(f"{path.parent.name}: {reason}")
    if not fitting:
        kind = f"{precision} engine" if precision else "engine"
        against = f" ({'; '.join(reasons)})" if reasons else ""
        raise DhoxError(f"{export} holds no {kind} for this machine{against}.", f"{BUILD}")
    _, folder, sidecar = max(fitting, key=lambda entry: entry[0])
    return folder, sidecar


def engine_facts(sidecar: dict[str, Any], plan: Path, graph: bool = False) -> RunnerFacts:
    """What the sidecar of an engine proves. `plan`: the engine's file; `graph`: whether a CUDA graph is asked for."""
    tensorrt, precision = sidecar["tensorrt"], sidecar["precision"]
    status = sidecar["engine_precision"]["status"]
    share = sidecar["engine_precision"].get("share", sidecar["graph_precision"]["share"])
    notes = [EXPERIMENTAL] if tensorrt["flavour"] == "tensorrt_rtx" else []
    if sidecar["dla_fallback"]:
        notes.append(f"{len(sidecar['dla_fallback'])} layers run on the GPU, not on DLA")
    return RunnerFacts(
        device="tensorrt", provider_asked="tensorrt", provider=f"{tensorrt['flavour']} {tensorrt['version']}",
        graph_asked=graph, precision_asked=precision,
        precision_proven=precision if status.startswith("proven") else None,
        precision_note=f"{status}; {share:.0%} of convolutions and matrix products {precision}",
        nodes_off_device=0, notes=notes, engine=str(plan),
    )  # fmt: skip


def run_golden(export: Path, manifest: dict[str, Any], entry: dict[str, Any], session: Session) -> GoldenResult:
    """The golden check of the export through an opened artefact, the one of `entry`."""
    golden = read_npz(check_file(export, "golden.npz", manifest["files"]["golden.npz"]))
    tensors = Tensors(Preprocessing.from_json(manifest["preprocessing"]), entry["input"])
    return check_golden(
        golden,
        lambda pixels: predict(session, tensors, pixels),
        entry["precision"],
        tensors.preprocessing,
        entry["golden_agreement"],
    )


def open_engine(
    export: Path, manifest: dict[str, Any], precision: str | None, trust_engine: bool, name: str = "tensorrt"
) -> EngineSession:
    """The newest engine that fits this machine (see `find_engine`, `read_plan`), of a precision or of any.

    `name`: of the runner; with the option `graph` it replays a CUDA graph. An engine that was built where no GPU could
    run it passes its golden check now, or GateFailedError is raised.
    """
    here = gpu()
    trt = import_tensorrt()
    folder, sidecar = find_engine(export, manifest, precision, trt, here)
    plan = read_plan(folder, sidecar, trust_engine)
    options = sidecar["options"]
    facts = engine_facts(sidecar, folder / PLAN_FILE, name.endswith(":graph"))
    session = EngineSession(
        trt, plan, host_code=options["version_compatible"], dla=options["dla"], facts=facts, name=name
    )
    if sidecar["golden"]["status"] != "passed":
        result = run_golden(export, manifest, artefact(manifest, sidecar["precision"]), session)
        if not result.passed:
            session.close()
            raise GateFailedError(
                f"{folder} does not give the golden outputs ({asdict(result)}). Delete it.", f"{BUILD}"
            )
    return session

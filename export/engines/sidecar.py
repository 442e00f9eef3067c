"""engine.json beside a plan: what was built from what, for which machine, and what proves it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from dhox.artefacts.files import write_bytes, write_json
from dhox.export.engines.compile_engine import Compiled, Options
from dhox.models import engines
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.tensorrt_api import TensorRT
from dhox.system.environment import now
from dhox.system.jetson import jetson_card

TRUST_NOTE = (
    "The hashes prove integrity, not trust: an engine can run any code when it is loaded. dhox loads it for the user "
    "who built it on this machine, for others only with --trust-engine."
)


def write_engine(
    partial: Path,
    folder: Path,
    compiled: Compiled,
    *,
    onnx: dict[str, str],
    precision: str,
    trt: TensorRT,
    device: Gpu | None,
    options: Options,
    seconds: float,
    proof: dict[str, Any],
    golden: dict[str, Any],
    ledger: dict[str, Any],
) -> dict[str, Any]:
    """Write a plan with its sidecar into `partial`, which becomes `folder`; answers with the sidecar.

    `onnx`: name and SHA-256 of the file it was built from. `seconds`: the build. `proof`, `golden`, `ledger`: what was
    found, or why it was not looked for. This user trusts the plan from now on.
    """
    digest = hashlib.sha256(compiled.plan).hexdigest()
    sidecar = {
        "schema": engines.ENGINE_SCHEMA,
        "status": "complete",
        "finished_at": now(),
        "folder": folder.name,
        "precision": precision,
        "onnx": onnx,
        "engine": {"file": engines.PLAN_FILE, "bytes": len(compiled.plan), "sha256": digest},
        "tensorrt": {"flavour": trt.flavour, "version": trt.version},
        "device": {
            "gpu": device.name if device else None,
            "compute_capability": device.compute_capability if device else None,
            "platform": engines.platform_name(),
            "jetson": msgspec.to_builtins(jetson_card()),
        },
        "options": asdict(options),
        "dla_fallback": compiled.on_gpu,
        "graph_precision": compiled.graph,
        "engine_precision": proof,
        "golden": golden,
        "ledger": ledger,
        "build_seconds": seconds,
        "trust": TRUST_NOTE,
    }
    write_bytes(partial / engines.PLAN_FILE, compiled.plan)
    engines.record_trust(digest, folder)
    write_json(partial / engines.ENGINE_FILE, sidecar)
    return sidecar


def precision_record(found: dict[str, Any] | None, source: str) -> dict[str, Any]:
    """`engine_precision` of the sidecar: the share and where it was read, or why there is none."""
    if found is None:
        return {"status": f"not run: the {source} does not tell the types of most layers"}
    told = sum(found["products"].values())
    every = told + len(found["hidden"])
    return {"status": "proven" if told == every else f"proven for {told} of {every}", "source": source, **found}

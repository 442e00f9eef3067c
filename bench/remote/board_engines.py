"""Engines of exports on the machine that will run them: what is missing is built."""

from __future__ import annotations

from pathlib import Path

from dhox.console import say
from dhox.errors import DhoxError
from dhox.export.engines.engine import build_engines
from dhox.models.engines import find_engine, platform_name
from dhox.models.export_directory import read_manifest
from dhox.runtimes.cuda import gpu
from dhox.runtimes.tensorrt_api import import_tensorrt


def build_missing(exports: list[Path], precisions: list[str], batches: list[int]) -> None:
    """Build an engine of every artefact (or of `precisions`) that has none which fits this machine and the batches.

    Raises DhoxError without TensorRT or a GPU, and where one cannot be built; the others are there then.
    """
    trt, here = import_tensorrt(), gpu()
    largest = max(batches)
    failed: DhoxError | None = None
    for export in exports:
        manifest = read_manifest(export)
        for entry in manifest["artefacts"]:
            precision = entry["precision"]
            if precisions and precision not in precisions:
                continue
            try:
                folder, sidecar = find_engine(export, manifest, precision, trt, here)
                if sidecar["options"]["smallest"] <= min(batches) and largest <= sidecar["options"]["largest"]:
                    say(f"Using the engine {folder.name}")
                    continue
            except DhoxError:
                pass  # none fits, so one is built
            say(f"Building the {precision} engine on {here.name} by TensorRT {trt.version} ({platform_name()})")
            try:
                build_engines(export, precisions=[precision], batches=(1, largest, largest), overwrite=True)
            except DhoxError as err:
                say(f"No {precision} engine: {err}")
                failed = failed or err
    if failed is not None:
        raise failed

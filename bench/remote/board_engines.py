"""Engines of exports on the machine that will run them: what is missing is built (on a board: `python -m`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dhox.console import say
from dhox.errors import DhoxError
from dhox.export.engines.engine import build_engines
from dhox.models.engines import find_engine, platform_name
from dhox.models.export_directory import read_manifest
from dhox.runtimes.cuda import gpu
from dhox.runtimes.tensorrt_api import import_tensorrt


def build_missing(exports: list[Path], precisions: list[str], batches: list[int]) -> list[str]:
    """Build an engine of every artefact (or of `precisions`) that has none which fits this machine and the batches.

    Answers with why engines could not be built; the others are there then. Raises DhoxError without TensorRT or a GPU.
    """
    trt, here = import_tensorrt(), gpu()
    largest = max(batches)
    failures = []
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
                failures.append(f"{precision}: {err}")
    return failures


def main() -> None:
    """`python -m dhox.bench.remote.board_engines JSON`, with the arguments of `build_missing` as JSON."""
    asked = json.loads(sys.argv[1])
    try:
        failures = build_missing([Path(path) for path in asked["exports"]], asked["precisions"], asked["batches"])
    except DhoxError as err:
        sys.exit(f"Error: {err}")
    if failures:
        sys.exit(f"Error: {failures[0]}")


if __name__ == "__main__":
    main()

"""Engines of exports on the machine that will run them: what is missing is built."""

from __future__ import annotations

from pathlib import Path

from dhox.console import say
from dhox.errors import DhoxError
from dhox.export.engines.engine import build_engines
from dhox.export.options import Engines
from dhox.models.engines import find_engine, platform_name
from dhox.models.export_directory import open_export
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
        opened = open_export(export)
        for entry in opened.manifest.artefacts:
            precision = entry.precision
            if precisions and precision not in precisions:
                continue
            try:
                folder, engine = find_engine(opened, precision, trt, here)
                if engine.options.smallest <= min(batches) and largest <= engine.options.largest:
                    say(f"Using the engine {folder.name}")
                    continue
            except DhoxError:
                pass  # none fits, so one is built
            say(f"Building the {precision} engine on {here.name} by TensorRT {trt.version} ({platform_name()})")
            try:
                wanted = Engines(tensorrt=True, precision=(precision,), batch=f"1:{largest}:{largest}")
                build_engines(export, wanted, overwrite=True)
            except DhoxError as err:
                say(f"No {precision} engine: {err}")
                failed = failed or err
    if failed is not None:
        raise failed

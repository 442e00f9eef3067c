"""How much memory one model takes: opened and run in a process of its own, which does nothing else.

    python -m dhox.bench.sweep.footprint EXPORT PRECISION RUNNER DEVICE BATCH

prints the bytes as its last line.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

from dhox.bench.bench_models import open_models
from dhox.bench.runners.runner import open_runner, parse_runner
from dhox.errors import DhoxError
from dhox.runtimes.tensorrt_api import import_tensorrt
from dhox.system.jetson import is_jetson
from dhox.system.jetson_state import resident_bytes, shared_memory

CALLS = 3
LIMIT_S = 300
METHOD = (
    "Memory: what a process that only opens the model and runs it three times adds to its resident set at most, beyond "
    "Python, numpy and what importing the runtime loads (ONNX Runtime, TensorRT or torch; what CUDA loads with the "
    "first model counts). On a Jetson: by how much MemAvailable fell meanwhile, since GPU and CPU share one memory. On "
    "a discrete GPU it is host memory only."
)


def measure_footprint(export: Path, precision: str, runner: str, device: str, batch: int) -> int:
    """Peak bytes of one artefact of an export, see METHOD. Raises DhoxError with the reason where the process fails."""
    arguments = [str(export.absolute()), precision, runner, device, str(batch)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dhox.bench.sweep.footprint", *arguments],
            capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd="/",  # -m looks for modules there first
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise DhoxError(f"it did not end within {LIMIT_S} s", "Free the machine, and sweep again.") from err
    lines = done.stdout.split()
    if done.returncode == 0 and lines and lines[-1].isdecimal():
        return int(lines[-1])
    said = done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"]
    raise DhoxError(said[-1], "The rest of the sweep stands without it.")


def main(export: str, precision: str, runner: str, device: str, batch: str) -> None:
    """Measure in this process."""
    load_runtime(runner)  # before the first reading: its libraries are no part of the model
    (model,) = open_models([Path(export)], precisions=(precision,))
    side = model.preprocessing.crop
    pixels = model.tensors.graph_input(np.zeros((int(batch), side, side, 3), np.uint8))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (proc(5))
    before = resident_bytes("VmRSS") or 0
    with shared_memory() as shared:
        opened = open_runner(model, runner, device)
        opened.bind(pixels)
        for _ in range(CALLS):
            opened.infer(pixels)
        summary = shared.summary()
        opened.close()
    print(summary.peak_bytes if is_jetson() else max(0, (resident_bytes() or 0) - before))


def load_runtime(runner: str) -> None:
    """Import what the runner computes with."""
    name, _ = parse_runner(runner)
    if name == "tensorrt":
        import_tensorrt()
    elif name == "torch":
        import_module("dhox.bench.runners.torch_reference")
    else:
        import_module("onnxruntime")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DhoxError as error:
        sys.exit(error.reason)

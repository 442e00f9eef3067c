"""Memory that `dhox bench` needs beyond the runtime and the model: python benchmarks/bench_memory.py EXPORT

Peak resident memory of `dhox bench` on the CPU, less that of a bare process that imports onnxruntime, opens the same
file and runs the same batches. Aim: under 150 MB. Without --data the process has no test images, with it it judges them
too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from dhox.console import console
from dhox.models.export_directory import open_export

AIM_MB = 150
BATCHES = (1, 8)
BARE = """
import sys
import onnxruntime, numpy
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shape, kind = session.get_inputs()[0].shape[1:], session.get_inputs()[0].type
for batch in map(int, sys.argv[2:]):
    session.run(None, {"image": numpy.zeros((batch, *shape), "uint8" if "uint8" in kind else "float32")})
"""


def peak_mb(command: list[str]) -> float:
    """Peak resident memory of one process, MB; ends with its last words where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    if process.returncode != 0:
        raise SystemExit(process.stderr.read().decode()[-500:])
    return usage.ru_maxrss / 1024


def main(export: Path, data: list[str], repeats: int) -> None:
    model = export / open_export(export).entry("fp32").file
    table = Table("process", *(f"peak {number + 1}, MB" for number in range(repeats)), "largest, MB")
    largest = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "onnxruntime and the model": [sys.executable, "-c", BARE, str(model), *map(str, BATCHES)],
            "dhox bench": [
                sys.executable, "-m", "dhox", "bench", str(model), "--device", "cpu", "--duration", "0.5",
                "--energy", "0", "--batch", ",".join(map(str, BATCHES)), "--out", f"{folder}/bench",
                "--overwrite", *data,
            ],
        }  # fmt: skip
        for what, command in commands.items():
            peaks = [peak_mb(command) for _ in range(repeats)]
            largest[what] = max(peaks)
            table.add_row(what, *(f"{peak:.0f}" for peak in peaks), f"{max(peaks):.0f}")
    console.print(table)
    beyond = largest["dhox bench"] - largest["onnxruntime and the model"]
    held = "held" if beyond < AIM_MB else "not held"
    console.print(
        f"Beyond the runtime and the model ({model.stat().st_size / 1e6:.1f} MB): {beyond:.0f} MB; "
        f"under {AIM_MB} MB: {held}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="an export directory")
    parser.add_argument("--data", help="DATA with a test split")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    main(asked.export, ["--data", asked.data] if asked.data else [], asked.repeats)

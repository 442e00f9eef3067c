"""Does the time of a student depend on its weights? Trained exports against their untrained candidates, interleaved.

    python benchmarks/untrained_latency.py runs/demo/export [EXPORT ...] [--batch 1] [--duration 20] [--device cpu]

Each export is measured with a candidate of the same student, size, classes and precision, as dhox sweep makes it, in
rounds of random order (dhox.bench.rounds); the ratio is candidate over trained, with its interval over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from dhox.artefacts.bench_latency import Key
from dhox.bench.bench_models import open_models
from dhox.bench.cells import scope_calls
from dhox.bench.latency_statistics import paired_ratio
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, Timed, measure
from dhox.bench.runners.runner import open_runner
from dhox.export.untrained import export_candidate
from dhox.models.export_directory import open_export
from dhox.system.environment import versions
from dhox.system.machine import cpu_model


def compare(export: Path, precision: str, batch: int, duration_s: float, device: str) -> str:
    """One row of the table."""
    manifest = open_export(export).manifest
    student, classes = manifest.student, len(manifest.classes)
    samples: dict[Key, Timed] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        untrained = Path(folder, "untrained")
        export_candidate(student.name, student.image_size, classes, precision == "fp16", untrained)
        cells = []
        for name, place in (("trained", export), ("untrained", untrained)):
            (model,) = open_models([place], precisions=(precision,))
            runner = stack.enter_context(closing(open_runner(model, "onnxruntime", device)))
            side = model.preprocessing.crop
            pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
            calls = scope_calls(model, runner, pixels, [])
            cells.append(Cell(Key(name, runner.name, batch, "e2e"), calls["e2e"]))
        measure(cells, duration_s, FEWEST_ROUNDS, np.random.default_rng(0), samples, student.name)
        trained, other = (samples[cell.key].rounds for cell in cells)
    found = paired_ratio(trained, other)
    assert found.interval is not None
    low, high = found.interval
    median_ms = float(np.median(np.concatenate(trained))) / 1e6
    return f"| {student.name} | {batch} | {median_ms:.4g} | {found.ratio:.4f} | {low:.4f} to {high:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+", type=Path, help="export directories of trained students")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of timed calls each")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    rows = [
        compare(export, options.precision, options.batch, options.duration, options.device)
        for export in options.exports
    ]
    print("| student | batch | trained, median ms | untrained / trained | 95 % interval |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    print(f"\n{cpu_model()}; " + ", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()

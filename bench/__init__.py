"""Stage 3: measure latency, throughput and accuracy of the very files that ship (no torch needed).

    result = dhox.bench("runs/photos/export", device="cpu")

Options have the names of `dhox bench --help`, with _ for -; `help(dhox.bench.options)` and docs/reference.md list them.
Everything is imported when the stage is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhox.bench.options import BenchOptions
from dhox.options.package import make_callable, options_of

if TYPE_CHECKING:
    from dhox.bench.run import BenchResult


def bench(*models: str | Path, **options: Any) -> BenchResult:
    """Measure exports, model files of exports or ONNX files, interleaved; by default to EXPORT/../bench/HOST-TIME.

    Raises UsageError for wrong options, DhoxError for a model that cannot be measured.
    """
    given = options_of(BenchOptions, options)
    from dhox.bench.run import bench as run_bench

    return run_bench([Path(model) for model in models], given)


make_callable(__name__, bench, BenchOptions)

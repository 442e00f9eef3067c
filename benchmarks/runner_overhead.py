"""What a runner adds to a bare loop of the same runtime: python benchmarks/runner_overhead.py [--device cuda]

Every pair of calls (bare and ours) is timed in one process, in random order within each of many rounds. Aim: under 1 %
or under 5 us. Random weights: times do not depend on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
from rich.table import Table

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import sha256
from dhox.bench.bench_models import BenchModel
from dhox.bench.runners.runner import open_runner
from dhox.console import console
from dhox.distill.students.student import with_heads
from dhox.export.folding.fold import inference_linear
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx

MODELS = (("test_resnet", 28), ("resnet18", 224))  # what the demo trains, and what users do
AIM_US, AIM_PERCENT = 5.0, 1.0
FEWEST_ROUNDS, MOST_ROUNDS, RESAMPLES = 40, 400, 2000
LONGEST = 30.0  # seconds per pair, unless the fewest rounds take longer
ROUND_SECONDS = 0.02  # of each call


@dataclass(frozen=True)
class Pair:
    """Two calls that do the same work, the bare one first."""

    what: str
    bare: Callable[[], object]
    ours: Callable[[], object]


def model_of(student: str, size: int, folder: Path) -> BenchModel:
    made = with_heads(timm.create_model(student, num_classes=0), size, 10, two_heads=True, kd_kind="linear").eval()
    head = folded_head(head_arrays(made), inference_linear(0.4, 0.5))
    preprocessing = Preprocessing(size, size, "bicubic", (0.5,) * 3, (0.25,) * 3)
    path = folder / f"{student}.onnx"
    path.write_bytes(
        export_onnx(Deployable(exportable(made.backbone), head, preprocessing, "uint8-nhwc").eval(), size, {})
    )
    classes = [str(number) for number in range(10)]
    return BenchModel(student, path, "fp32", sha256(path), path.stat().st_size, "uint8-nhwc", classes, preprocessing)


def onnxruntime_pairs(runner: Any, batch: np.ndarray) -> list[Pair]:
    """Against ONNX Runtime's own calls, on the runner's session and arrays."""
    session, binding = runner.session, runner.binding
    # A CUDA graph is named in the run's options; without one the shortest call has none.
    options = (runner.run_options,) if runner.facts.graph else ()
    pairs = [Pair("run / run_with_iobinding", partial(session.run_with_iobinding, binding, *options), runner.run)]
    if runner.device == "cpu":
        bare = partial(session.run, ["probs"], {"image": batch})
        return [*pairs, Pair("infer / session.run", bare, partial(runner.infer, batch))]

    def copied() -> object:
        runner.input.update_inplace(batch)
        session.run_with_iobinding(binding, *options)
        return runner.output.numpy()

    return [*pairs, Pair("infer / copy, run, copy", copied, partial(runner.infer, batch))]


def engine_pairs(runner: Any) -> list[Pair]:
    """Against the TensorRT and CUDA calls themselves, their functions looked up beforehand."""
    from dhox.runtimes import cuda

    context, stream, graph = runner.session.context, runner.session.stream, runner.graph
    execute, wait, launch = (
        context.execute_async_v3,
        cuda.runtime().cudaStreamSynchronize,
        cuda.runtime().cudaGraphLaunch,
    )

    def bare() -> None:
        execute(stream)
        wait(stream)

    def replay() -> None:
        launch(graph, stream)
        wait(stream)

    return [
        Pair(
            "run / execute_async_v3" if graph is None else "run / cudaGraphLaunch",
            replay if graph else bare,
            runner.run,
        )
    ]


def compare(pair: Pair, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The bare median in us, and ours minus bare in us: median over rounds with its bootstrap interval [3]."""
    for call in (pair.bare, pair.ours):
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            call()
    start = time.perf_counter()
    pair.bare()
    once = time.perf_counter() - start
    count = max(2, int(ROUND_SECONDS / once))
    rounds = int(np.clip(LONGEST / (2 * count * once), FEWEST_ROUNDS, MOST_ROUNDS))
    medians = np.empty((rounds, 2))
    clock, both = time.perf_counter_ns, (pair.bare, pair.ours)
    for number in range(rounds):
        for which in rng.permutation(2):
            call, times = both[which], []
            for _ in range(count):
                begin = clock()
                call()
                times.append(clock() - begin)
            medians[number, which] = np.median(times) / 1000
    difference = medians[:, 1] - medians[:, 0]
    picks = rng.integers(0, rounds, (RESAMPLES, rounds))
    return float(np.median(medians[:, 0])), np.array(
        [np.median(difference), *np.percentile(np.median(difference[picks], 1), [2.5, 97.5])]
    )


def main(device: str, runners: list[str], batches: list[int]) -> None:
    rng = np.random.default_rng(0)
    table = Table("model", "runner", "batch", "ours / bare", "bare, us", "added, us (95 %)", "added, %", "aim held")
    with tempfile.TemporaryDirectory() as folder:
        for student, size in MODELS:
            model = model_of(student, size, Path(folder))
            for name in runners:
                for batch in batches:
                    pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
                    runner: Any = open_runner(model, name, device)
                    runner.bind(pixels)
                    pairs = engine_pairs(runner) if name.startswith("tensorrt") else onnxruntime_pairs(runner, pixels)
                    for pair in pairs:
                        bare, (added, low, high) = compare(pair, rng)
                        words = f"{added:+.2f} ({low:+.2f} to {high:+.2f})"
                        aim = max(AIM_US, bare * AIM_PERCENT / 100)
                        held = "yes" if high < aim else "no" if low > aim else "not shown: too noisy"
                        table.add_row(
                            student, name, str(batch), pair.what, f"{bare:.1f}", words,
                            f"{100 * added / bare:+.2f}", held,
                        )  # fmt: skip
                    runner.close()
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "tensorrt"))
    parser.add_argument("--runner", action="append", help="repeatable; by default onnxruntime, on tensorrt: tensorrt")
    parser.add_argument("--batch", action="append", type=int, help="repeatable; by default 1 and 8")
    asked = parser.parse_args()
    main(
        asked.device,
        asked.runner or ["tensorrt" if asked.device == "tensorrt" else "onnxruntime"],
        asked.batch or [1, 8],
    )

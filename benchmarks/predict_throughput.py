"""Images per second of dhox predict against a bare loop and one thread: python benchmarks/predict_throughput.py

Five ways to answer the same JPEG files with the same graph, in random order within each round, in one process:

- predict: `dhox.load(...).stream(FOLDER)`, which `dhox predict` uses: decoding on all cores ahead of batches of 32;
- one thread: read, decode, cut and run one batch after the other, the graph too in one thread;
- decode: read, decode and cut in one thread, no graph;
- bare loop: the graph alone, over ten batches of 32 that are decoded and cut already;
- arrays: `stream` over those same arrays, so that decoding costs nothing.

Aims: predict at least 1.8 times one thread on two cores, and 1.8 times decode where the graph costs next to nothing
beside it (--width 4000 --height 3000 --images 16); arrays at least 0.95 of the bare loop. Random weights: times do not
depend on them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from rich.table import Table

import dhox
from dhox.console import console
from dhox.data.images import decode, model_input
from dhox.export.untrained import export_candidate
from dhox.progress import quietly

STUDENTS = (("test_resnet", 160), ("mobilenetv4_conv_small", 224))  # next to nothing, and what a board runs
BATCH, BATCHES, ROUNDS = 32, 10, 9


def photographs(folder: Path, n: int, width: int, height: int) -> list[Path]:
    """JPEG files with as much detail as a photograph has: noise whose power falls with the square of its frequency."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(n):
        image = np.zeros((height, width, 3), np.float32)
        for step in (1, 2, 4, 8, 16, 32, 64, 128):
            small = rng.normal(0, step**0.5, (-(-height // step), -(-width // step), 3))
            image += small.repeat(step, 0).repeat(step, 1)[:height, :width]
        pixels = np.clip(128 + 6 * image, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def ways(export: Path, folder: Path, paths: list[Path]) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, and how many images each way answers."""
    model = dhox.load(export, "cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    alone = onnxruntime.InferenceSession(export / "model.onnx", options, providers=["CPUExecutionProvider"])
    once = np.stack([model_input(decode(path), model.preprocessing) for path in paths[:BATCH]])
    pixels = np.resize(once, (BATCH * BATCHES, *once.shape[1:]))
    arrays = list(pixels)

    def read(some: list[Path]) -> np.ndarray:
        return np.stack([model_input(decode(path), model.preprocessing) for path in some])

    def batches() -> list[list[Path]]:
        return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    return {
        "predict": (lambda: sum(1 for _ in model.stream(folder)), len(paths)),
        "one thread": (lambda: [alone.run(["probs"], {"image": read(some)}) for some in batches()], len(paths)),
        "decode": (lambda: [read(some) for some in batches()], len(paths)),
        "bare loop": (
            lambda: [model.session.infer(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)], len(pixels),
        ),
        "arrays": (lambda: sum(1 for _ in model.stream(arrays)), len(arrays)),
    }  # fmt: skip


def rates(timed: dict[str, tuple[Callable[[], object], int]]) -> dict[str, np.ndarray]:
    """Images per second of every way in every round, after one round to warm up."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(ROUNDS + 1):
        for name in rng.permutation(list(timed)):
            answer, images = timed[name]
            start = time.perf_counter()
            answer()
            if number:
                found[name].append(images / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in found.items()}


def ratio(one: np.ndarray, other: np.ndarray) -> str:
    """Median over rounds of a ratio, and its range."""
    each = one / other
    return f"{np.median(each):.2f} ({each.min():.2f} to {each.max():.2f})"


def main(n: int, width: int, height: int) -> None:
    table = Table(
        "student", "predict, images/s", "/ one thread", "/ decode", "bare loop, images/s", "arrays / bare loop"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        folder.mkdir()
        paths = photographs(folder, n, width, height)
        for student, size in STUDENTS:
            with quietly():
                export_candidate(student, size, 10, False, Path(place, student))
            found = rates(ways(Path(place, student), folder, paths))
            table.add_row(
                f"{student}, {size} px", f"{np.median(found['predict']):.0f}",
                ratio(found["predict"], found["one thread"]), ratio(found["predict"], found["decode"]),
                f"{np.median(found['bare loop']):.0f}", ratio(found["arrays"], found["bare loop"]),
            )  # fmt: skip
    console.print(f"{n} JPEG files, {width} x {height}; {os.cpu_count()} cores; {ROUNDS} rounds: median (range)")
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    asked = parser.parse_args()
    main(asked.images, asked.width, asked.height)

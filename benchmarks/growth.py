"""How time and memory grow with images and with classes: stage by stage, each in a process of its own.

    python benchmarks/growth.py                   # 1,000, 10,000 and 100,000 images; 10 to 10,000 classes
    python benchmarks/growth.py --images 100 300 --classes 5 10

Tiny images and the demo's tiny teacher: what is measured is dhox's own work per image, not decoding or models. A ratio
is the CPU time per image (or class) at a size divided by that at the size before: about 1 where cost grows linearly,
less where a part of it does not grow. Memory is the growth of a process's peak resident set; "per further image"
compares two sizes, so that what every process needs anyway cancels.
"""

from __future__ import annotations

import argparse
import csv
import gc
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table

import dhox
from dhox.console import console
from dhox.distill.images.listing import Images, Listing, list_images, look
from dhox.distill.images.packed import packed_rows
from dhox.distill.images.sets import choose_sets
from dhox.distill.options import Labels
from dhox.distill.processes import create_fabric
from dhox.distill.teachers.embeddings import CachedTeacher
from dhox.distill.teachers.teacher import load_teacher
from dhox.progress import quietly
from dhox.reports.pages.run import write_report
from dhox.system.machine import cpu_model

TEACHER = f"local-dir:{Path(dhox.__file__).parent / 'demo/teacher'}"
SIDE, FOLDERS, VIEWS = 28, 10, 2
SPLITS = {"train": 8, "val": 1, "test": 1}  # tenths of the images
TRAINING = {
    "teacher": TEACHER, "student": "test_resnet", "student_weights": "none", "image_size": SIDE, "shots": 1,
    "views": VIEWS, "epochs": 1, "epoch_over": "labelled", "batch_labelled": 256, "batch_unlabelled": 64,
    "device": "cpu", "workers": 0, "overwrite": True,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """DATA, the caches beside it, and the run directory that its training writes."""

    data: Path
    root: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "run"

    def images(self) -> tuple[Listing, Images]:
        """DATA, listed and looked at."""
        listing = list_images(self.data)
        return listing, look(listing, skip_bad_images=False, cache=self.root)


@dataclass(frozen=True)
class Cost:
    """Seconds of a stage, those of its threads on a core, and by how many bytes the peak memory of its process grew."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


Seconds = tuple[float, float]  # of the clock, and of this process on a core


def timed(work: Callable[[], object]) -> Seconds:
    """How long some work takes."""
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu_start


def list_data(place: Place) -> Seconds:
    return timed(lambda: list_images(place.data))


def scan(place: Place) -> Seconds:
    listing = list_images(place.data)
    return timed(lambda: look(listing, skip_bad_images=False, cache=place.root))


def pack(place: Place) -> Seconds:
    listing, images = place.images()
    fabric, keys = create_fabric("cpu", None)[0], images.keys(listing.training)
    return timed(lambda: packed_rows(fabric, place.root, listing.training, keys, SIDE))


def cache(place: Place) -> Seconds:
    listing, images = place.images()
    teacher = load_teacher(TEACHER, torch.device("cpu"))
    cached = CachedTeacher.of(teacher, place.root, images, 0, 0, create_fabric("cpu", None)[0])
    return timed(lambda: cached.views(listing.training, VIEWS))


def sets(place: Place) -> Seconds:
    listing, images = place.images()
    return timed(lambda: choose_sets(images.splits, listing.labels, images.content, Labels(shots=1)))


def train(place: Place) -> Seconds:
    """A training of one pass over one label per class: all that comes before, between and after its steps."""
    return timed(lambda: dhox.distill(place.data, place.run, cache=place.root, **TRAINING))  # type: ignore[operator]


def report(place: Place) -> Seconds:
    return timed(lambda: write_report(place.run))


STAGES = {
    "list": list_data, "scan": scan, "scan again": scan, "pack": pack, "cache": cache, "sets": sets, "train": train,
    "report": report,
}  # fmt: skip
OF_CLASSES = ("list", "sets", "train", "report")


def cost_of(stage: str, place: Place) -> Cost:
    """What a stage costs in a process of its own."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=measure, args=(stage, place, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        raise SystemExit(f"The stage {stage} failed.") from None
    finally:
        process.join()


def measure(stage: str, place: Place, sending: Connection) -> None:
    """Run a stage in this process and send its cost."""
    gc.freeze()  # else the garbage collector looks at all that torch imports, in some stages and not in others
    before = peak_bytes()
    with quietly():
        seconds = STAGES[stage](place)
    sending.send(Cost(*seconds, peak_bytes() - before))


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_images(folder: Path, n: int) -> None:
    """n PNG files of noise as an image folder: eight tenths train, the rest val and test, FOLDERS classes."""
    random = np.random.default_rng(0)
    for split, tenths in SPLITS.items():
        for number in range(n * tenths // 10):
            place = folder / split / f"class{number % FOLDERS}"
            if number < FOLDERS:
                place.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(place / f"{number:08d}.png")


def write_manifest(file: Path, folder: Path, classes: int, n: int) -> None:
    """The same files under the same names, in other classes: at most n of train, and n / 8 of val and of test."""
    with file.open("w", newline="") as content:
        rows = csv.writer(content)
        rows.writerow(["path", "name", "label", "split"])
        for split, tenths in SPLITS.items():
            paths = sorted((folder / split).rglob("*.png"), key=lambda path: path.name)[: n * tenths // 8]
            names = (path.relative_to(folder) for path in paths)
            rows.writerows(
                [folder / name, name, f"class{number % classes:06d}", split] for number, name in enumerate(names)
            )


def show(title: str, unit: str, units: str, sizes: list[int], costs: list[dict[str, Cost]]) -> None:
    """One table: a row per stage and size."""
    columns = ("stage", units, "s", "CPU s", f"CPU µs per {unit}", "ratio", "peak, MB", f"bytes per further {unit}")
    table = Table(*columns, title=title)
    for stage in costs[0]:
        before: tuple[int, Cost] | None = None
        for size, cost in zip(sizes, (of_size[stage] for of_size in costs), strict=True):
            ratio = slope = ""
            if before is not None:
                ratio = f"{cost.cpu_seconds / size / (before[1].cpu_seconds / before[0]):.2f}"
                slope = f"{(cost.peak_bytes - before[1].peak_bytes) / (size - before[0]):,.0f}"
            table.add_row(
                stage, f"{size:,}", f"{cost.seconds:.2f}", f"{cost.cpu_seconds:.2f}",
                f"{1e6 * cost.cpu_seconds / size:,.0f}", ratio, f"{cost.peak_bytes / 1e6:,.0f}", slope,
            )  # fmt: skip
            before = size, cost
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    options = parser.parse_args()
    n = 2 * max(options.classes)  # of train, at every number of classes
    if n > 8 * max(options.images) // 10:
        parser.error("two training images per class are needed at the largest size")
    console.print(
        f"{cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        of_images = []
        for size in sorted(options.images):
            place = Place(folder / f"data{size}", folder / f"caches{size}")
            write_images(place.data, size)
            of_images.append({stage: cost_of(stage, place) for stage in STAGES})
        show(f"Images, at {FOLDERS} classes", "image", "images", sorted(options.images), of_images)
        of_classes = []
        for classes in sorted(options.classes):
            other = Place(folder / f"{classes}.csv", place.root)
            write_manifest(other.data, place.data, classes, n)
            cost_of("scan", other)
            of_classes.append({stage: cost_of(stage, other) for stage in OF_CLASSES})
        show(
            f"Classes, at {n:,} images of train and {n // 8:,} of val and test",
            "class",
            "classes",
            sorted(options.classes),
            of_classes,
        )


if __name__ == "__main__":
    main()

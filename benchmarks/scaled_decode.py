"""What `--decode scaled` saves and costs: CPU time and pixels by size of JPEG, and top-1 on the same images.

    python benchmarks/scaled_decode.py DATA --export FULL SCALED [--export FULL SCALED ...]
    python benchmarks/scaled_decode.py PHOTOS --student tf_efficientnet_lite0 --weights FILE [--image-size 64]

DATA: anything that dhox reads, of which the `test` split is used. FULL, SCALED: exports of two trainings that differ in
--decode alone. Each answers under both, and SCALED under scaled is held against FULL under full; several pairs (seeds)
are counted together. With --student: a flat folder with one image per class in the network's order. `--enlarge N`: the
images as JPEGs whose shorter side is N.

JPEGs of camera size are made of the images: `mosaic` (many side by side, as much detail as a file can hold) and
`enlarged` (one of them, little detail). Both ways take turns on one core; milliseconds of its time are the median.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from PIL import Image, features
from preprocessing_mismatch import labelled_items, timm_graph

from dhox.artefacts.common import Preprocessing
from dhox.data.images import decode
from dhox.data.items import Item, image_bytes, read_image, spread
from dhox.evidence.statistics import mcnemar_p, paired_difference_interval
from dhox.models.classifier import load
from dhox.progress import progress_bar
from dhox.runtimes.predict import pixels_of
from dhox.runtimes.tensors import Tensors

SIZES = [(640, 480), (1280, 720), (1920, 1080), (2592, 1944), (3840, 2160)]
FILES, ROUNDS, QUALITY = 6, 5, 90
Answers = dict[str, np.ndarray]  # by kind of decoding: class numbers [N]


def as_jpeg(image: Image.Image) -> bytes:
    """A JPEG file as cameras write it (4:2:0)."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def mosaic(images: list[Image.Image], width: int, height: int, seed: int) -> Image.Image:
    """As many of the images as fill the area, at their own size."""
    canvas, top, order = Image.new("RGB", (width, height)), 0, np.random.default_rng(seed)
    while top < height:
        left, lowest = 0, height
        while left < width:
            image = images[order.integers(len(images))]
            canvas.paste(image, (left, top))
            left, lowest = left + image.width, min(lowest, image.height)
        top += lowest
    return canvas


def cpu_ms(content: bytes, contract: Preprocessing) -> float:
    """CPU time from an encoded image to the model's input."""
    start = time.process_time()
    pixels_of([content], contract)
    return 1000 * (time.process_time() - start)


def print_times(images: list[Image.Image], contract: Preprocessing) -> None:
    """One row per size of JPEG and detail."""
    full, scaled = replace(contract, decode="full"), replace(contract, decode="scaled")
    print("| JPEG | kB | decoded at | full, ms | scaled, ms | times less CPU | pixels off |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for width, height in SIZES:
        kinds: dict[str, Callable[[int], Image.Image]] = {
            "mosaic": lambda i, w=width, h=height: mosaic(images, w, h, i),  # type: ignore[misc]
            "enlarged": lambda i, w=width, h=height: images[i].resize((w, h), Image.Resampling.BICUBIC),  # type: ignore[misc]
        }
        for kind, make in kinds.items():
            files = [as_jpeg(make(i)) for i in range(FILES)]
            taken = np.array([
                [cpu_ms(file, full), cpu_ms(file, scaled)] for _ in range(ROUNDS) for file in files
            ])  # fmt: skip
            off = abs(pixels_of(files, full).astype(int) - pixels_of(files, scaled)).mean()
            share = width / decode(io.BytesIO(files[0]), jpeg_side=scaled.jpeg_side).width
            before, after = np.median(taken, axis=0)
            kb = np.mean([len(file) for file in files]) / 1000
            print(
                f"| {width} x {height}, {kind} | {kb:,.0f} | 1/{share:.0f} | {before:.1f} | {after:.1f} | "
                f"{before / after:.1f} | {off:.2f} |"
            )


def answer(
    run: Callable[[np.ndarray], np.ndarray], tensors: Tensors, items: list[Item], enlarge: int | None
) -> tuple[Answers, dict[str, float]]:
    """Classes under both ways, and what else there is to say of the images, as shares or levels."""
    found: dict[str, list[int]] = {"full": [], "scaled": []}
    smaller = off = 0.0
    contracts = {kind: replace(tensors.preprocessing, decode=kind) for kind in found}
    with progress_bar("Images", len(items)) as advance:
        for item in items:
            content = image_bytes(item) if enlarge is None else enlarged(item, enlarge)
            pixels = {kind: pixels_of([content], contract) for kind, contract in contracts.items()}
            for kind, of_kind in pixels.items():
                found[kind].append(int(run(tensors.graph_input(of_kind)).argmax()))
            off += float(abs(pixels["full"].astype(int) - pixels["scaled"]).mean())
            sides = [
                decode(io.BytesIO(content), jpeg_side=side).width for side in (None, contracts["scaled"].jpeg_side)
            ]
            smaller += sides[1] < sides[0]
            advance(1)
    n = len(items)
    return {kind: np.array(rows) for kind, rows in found.items()}, {"smaller": smaller / n, "off": off / n}


def enlarged(item: Item, side: int) -> bytes:
    """The image as a JPEG whose shorter side is `side`."""
    image = read_image(item)
    factor = side / min(image.size)
    return as_jpeg(image.resize((round(factor * image.width), round(factor * image.height)), Image.Resampling.BICUBIC))


def print_row(name: str, before: np.ndarray, after: np.ndarray, same: np.ndarray) -> None:
    """`before`, `after`: right or wrong, bool [N]; `same`: whether the class is."""
    gained, lost, n = int((after & ~before).sum()), int((before & ~after).sum()), len(before)
    low, high = paired_difference_interval(gained, lost, n)
    print(
        f"| {name} | {n:,} | {100 * before.mean():.1f} | {100 * after.mean():.1f} | {100 * (gained - lost) / n:+.2f} "
        f"({100 * low:+.2f} to {100 * high:+.2f}) | {mcnemar_p(gained, lost):.2g} | {100 * same.mean():.1f} |"
    )


def print_header() -> None:
    print("| model | images | full, % | scaled, % | points (95 %) | McNemar p | same label, % |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--export", type=Path, nargs=2, action="append", metavar=("FULL", "SCALED"))
    source.add_argument("--student")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--enlarge", type=int)
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, help="At most so many images, spread evenly.")
    options = parser.parse_args()

    if options.export:
        classes = load(options.export[0][0], "cpu").classes
        contract = load(options.export[0][0], "cpu").preprocessing
    else:
        session, contract, kind = timm_graph(options.student, options.weights, options.image_size)
        classes = None
    items, labels = labelled_items(options, classes)
    print(
        f"{platform.machine()}, one core, Pillow {Image.__version__}, libjpeg-turbo "
        f"{features.version('libjpeg_turbo')}; shorter side to {contract.resize}, "
        f"{contract.interpolation}; quality {QUALITY}; pixels off = mean absolute difference of 255"
    )
    print_times([read_image(item) for item in spread(items, 60)], contract)
    print()
    if not options.export:
        found, about = answer(session.infer, Tensors(contract, kind), items, options.enlarge)
        print_header()
        print_row(options.student, found["full"] == labels, found["scaled"] == labels, found["full"] == found["scaled"])
    else:
        about = print_exports(options.export, items, labels, options.enlarge)
    print(f"\n{100 * about['smaller']:.0f} % of the images decoded smaller, {about['off']:.2f} pixels off.")


def print_exports(
    pairs: list[list[Path]], items: list[Item], labels: np.ndarray, enlarge: int | None
) -> dict[str, float]:
    """Rows: each training under both ways, and one training against the other, each under its own."""
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    about: dict[str, float] = {}
    for pair in pairs:
        by_training = {}
        for training, path in zip(("full", "scaled"), pair, strict=True):
            model = load(path, "cpu")
            found, about = answer(model.session.infer, model.tensors, items, enlarge)
            by_training[training] = found
            rows.setdefault(f"trained {training}", []).append((found["full"], found["scaled"]))
        rows.setdefault("each as trained", []).append((by_training["full"]["full"], by_training["scaled"]["scaled"]))
    print_header()
    for name, answers in rows.items():
        before, after = (np.concatenate([one[i] for one in answers]) for i in (0, 1))
        truth = np.tile(labels, len(answers))
        print_row(name, before == truth, after == truth, before == after)
    return about


if __name__ == "__main__":
    main()

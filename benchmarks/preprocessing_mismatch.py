"""What another preprocessing than the contract's costs: top-1 lost by each mismatch, on the same images.

    python benchmarks/preprocessing_mismatch.py DATA --export EXPORT
    python benchmarks/preprocessing_mismatch.py DATA --student tf_efficientnet_lite0 --weights FILE

DATA: with --export, anything that dhox reads, of which the `test` split is used (--split names another). With --student
(a timm model with its own preprocessing), an image folder with classes in the network's order, or a flat folder with
one image per class. Rows of OpenCV and torchvision are skipped, with a note, where they are not installed. A graph that
takes uint8 pixels cannot be fed unnormalised values, so those rows then do not exist.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.data.images import INTERPOLATIONS, model_input
from dhox.data.items import Item, image_bytes, read_image
from dhox.evidence.statistics import Z_95_TWO_SIDED, mcnemar_p, wilson_interval
from dhox.models.classifier import load
from dhox.progress import progress_bar
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.tensors import Tensors

BATCH = 32
KERNELS = {"nearest": 0, "linear": 1, "cubic": 2, "area": 3}  # cv2.INTER_*

# A mismatch turns an upright RGB image into the pixels that reach the graph: [crop, crop, 3], uint8 or float, 0 to 255.
Mismatch = Callable[[Image.Image], np.ndarray]


def geometry(width: int, height: int, contract: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size that the contract resizes to, and the corner of its crop, as (width, height) and (left, top)."""
    short, size = min(width, height), contract.resize
    target = (
        size if width == short else int(size * width / short),
        size if height == short else int(size * height / short),
    )
    return target, (round((target[0] - contract.crop) / 2), round((target[1] - contract.crop) / 2))


def cropped(pixels: np.ndarray, corner: tuple[int, int], crop: int) -> np.ndarray:
    """The crop of pixels [H, W, 3]."""
    return pixels[corner[1] : corner[1] + crop, corner[0] : corner[0] + crop]


def pillow_rows(contract: Preprocessing) -> dict[str, Mismatch]:
    """Other kernels, other geometry, other colour: what Pillow and numpy alone can get wrong."""
    crop, kernel = contract.crop, INTERPOLATIONS[contract.interpolation]
    rows: dict[str, Mismatch] = {
        f"Pillow {name}": lambda image, name=name: model_input(  # type: ignore[misc]
            image, replace(contract, interpolation=name)
        )
        for name in INTERPOLATIONS
        if name != contract.interpolation
    }

    def one_pixel(image: Image.Image) -> np.ndarray:
        target, corner = geometry(*image.size, contract)
        shifted = (max(corner[0] - 1, 0), max(corner[1] - 1, 0))
        return cropped(np.asarray(image.resize(target, kernel)), shifted, crop)

    def letterbox(image: Image.Image) -> np.ndarray:
        scale = crop / max(image.size)
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        canvas = Image.new("RGB", (crop, crop))
        canvas.paste(image.resize(size, kernel), ((crop - size[0]) // 2, (crop - size[1]) // 2))
        return np.asarray(canvas)

    rows |= {
        "crop one pixel off": one_pixel,
        "shorter side straight to the crop": lambda image: model_input(image, replace(contract, resize=crop)),
        "squashed to the crop": lambda image: np.asarray(image.resize((crop, crop), kernel)),
        "letterboxed on black": letterbox,
        "BGR for RGB": lambda image: model_input(image, contract)[..., ::-1],
    }
    return rows


def opencv_rows(contract: Preprocessing, cv2: Any) -> dict[str, Mismatch]:
    """OpenCV's kernels in the contract's geometry, and what nvinfer does: bilinear without antialiasing."""
    crop = contract.crop

    def in_geometry(image: Image.Image, flag: int) -> np.ndarray:
        target, corner = geometry(*image.size, contract)
        return cropped(cv2.resize(np.asarray(image), target, interpolation=flag), corner, crop)

    def nvinfer(image: Image.Image, padded: str) -> np.ndarray:
        pixels = np.asarray(image)
        if padded == "stretch":
            return np.asarray(cv2.resize(pixels, (crop, crop), interpolation=KERNELS["linear"]))
        scale = crop / max(image.size)
        width, height = (max(1, int(side * scale)) for side in image.size)
        left, top = ((crop - width) // 2, (crop - height) // 2) if padded == "symmetric" else (0, 0)
        canvas = np.zeros((crop, crop, 3), np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(
            pixels, (width, height), interpolation=KERNELS["linear"]
        )
        return canvas

    def square_first(image: Image.Image) -> np.ndarray:
        side = round(min(image.size) * crop / contract.resize)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return np.asarray(cv2.resize(
            cropped(np.asarray(image), (left, top), side), (crop, crop), interpolation=KERNELS["linear"]
        ))  # fmt: skip

    rows: dict[str, Mismatch] = {
        f"OpenCV {name}": lambda image, flag=flag: in_geometry(image, flag)  # type: ignore[misc]
        for name, flag in KERNELS.items()
    }
    return rows | {
        "nvinfer: stretch": lambda image: nvinfer(image, "stretch"),
        "nvinfer: maintain-aspect-ratio": lambda image: nvinfer(image, "corner"),
        "nvinfer: maintain-aspect-ratio, symmetric-padding": lambda image: nvinfer(image, "symmetric"),
        "nvinfer: centre square cut before it": square_first,
    }


def torchvision_rows(contract: Preprocessing, torch: Any, functional: Any) -> dict[str, Mismatch]:
    """Float tensors resized by torchvision, with and without antialiasing."""

    def resized(image: Image.Image, name: str, antialias: bool) -> np.ndarray:
        target, corner = geometry(*image.size, contract)
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
        mode = functional.InterpolationMode(name)
        answer = functional.resize(tensor, [target[1], target[0]], mode, antialias=antialias).clamp(0, 255)
        return cropped(answer.permute(1, 2, 0).numpy(), corner, contract.crop)

    return {
        f"torchvision {name}, antialias {'on' if antialias else 'off'}": (
            lambda image, name=name, antialias=antialias: resized(image, name, antialias)
        )
        for name in ("bilinear", "bicubic")
        for antialias in (True, False)
    }


def all_rows(contract: Preprocessing) -> tuple[dict[str, Mismatch], list[str]]:
    """Every mismatch that this machine can make, and notes on those that it cannot."""
    rows, notes = pillow_rows(contract), []
    try:
        import cv2

        rows |= opencv_rows(contract, cv2)
    except ImportError:
        notes.append("OpenCV and nvinfer rows skipped: pip install opencv-python-headless")
    try:
        import torch
        from torchvision.transforms.v2 import functional

        rows |= torchvision_rows(contract, torch, functional)
    except ImportError:
        notes.append("torchvision rows skipped: pip install torchvision")
    return rows, notes


def drafted(item: Item, side: int) -> Image.Image:
    """A JPEG decoded at the smallest of 1/1, 1/2, 1/4, 1/8 that still covers side x side, as `Image.draft` does."""
    with Image.open(io.BytesIO(image_bytes(item))) as image:
        image.draft("RGB", (side, side))
        image.load()
        return image.convert("RGB")


def unnormalised(kind: str) -> dict[str, Callable[[np.ndarray, Preprocessing], np.ndarray]]:
    """Graph inputs that skip the normalisation, where the graph leaves it to the caller."""
    if kind != "float-nchw":
        return {}
    return {
        "no mean and std (0 to 1)": lambda pixels, _: np.ascontiguousarray(
            pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        ),
        "no normalisation at all (0 to 255)": lambda pixels, _: np.ascontiguousarray(
            pixels.transpose(0, 3, 1, 2).astype(np.float32)
        ),
    }


def timm_graph(name: str, weights: Path | None, size: int | None) -> tuple[Any, Preprocessing, str]:
    """An ONNX Runtime session of a timm classifier with its own preprocessing as the contract."""
    import timm
    import torch
    from packed_size import network

    from dhox.export.graphs.graph import Deployable
    from dhox.export.graphs.onnx_export import export_onnx

    model = network(name, weights)
    config = timm.data.resolve_data_config({}, model=model)
    crop = size or config["input_size"][-1]
    resize = int(crop / config["crop_pct"])  # as timm's own transform rounds
    contract = Preprocessing(resize, crop, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))
    graph = Deployable(model, torch.nn.Softmax(-1), contract, "float-nchw").eval()
    return OnnxSession(export_onnx(graph, contract.crop, {}), "cpu"), contract, "float-nchw"


def labelled_items(options: argparse.Namespace, classes: list[str] | None) -> tuple[list[Item], np.ndarray]:
    """The images and their class numbers."""
    if classes is not None:
        from dhox.data.dataset import class_numbers, read_dataset, spread

        items = read_dataset(options.data, options.split, labels=classes)[options.split]
        items = spread(items, options.images or len(items))
        return items, class_numbers(items, classes)
    paths = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    folders = sorted({path.parent.name for path in paths})
    labels = np.array([folders.index(p.parent.name) if len(folders) > 1 else i for i, p in enumerate(paths)])
    chosen = np.linspace(0, len(paths) - 1, min(options.images or len(paths), len(paths))).astype(int)
    return [Item(str(paths[i]), paths[i].name) for i in chosen], labels[chosen]


def batches(items: list[Item]) -> Iterator[list[Item]]:
    """BATCH images at a time."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Two-sided 95 % interval of an accuracy difference, half an observation added to each cell (Agresti, Min 2005)."""
    n, gained, lost = n + 2, gained + 0.5, lost + 0.5  # type: ignore[assignment]
    difference = (gained - lost) / n
    half = Z_95_TWO_SIDED * sqrt((gained + lost) / n - difference**2) / sqrt(n)
    return difference - half, difference + half


def measure(
    run: Callable[[np.ndarray], np.ndarray], kind: str, contract: Preprocessing, items: list[Item]
) -> tuple[dict[str, np.ndarray], dict[str, float], list[str]]:
    """Top-1 answers of every row, the mean absolute difference of their pixels to the contract's, and notes."""
    rows, notes = all_rows(contract)
    raw = unnormalised(kind)
    if not raw:
        notes.append(f"Rows without normalisation do not exist: this graph takes {kind} and normalises itself")
    answers: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[float]] = {}
    shrunk = 0

    def ask(name: str, pixels: np.ndarray, reference: np.ndarray) -> None:
        if kind == "uint8-nhwc":
            pixels = np.rint(pixels).astype(np.uint8)
        answers.setdefault(name, []).append(run(Tensors(contract, kind).graph_input(pixels)).argmax(-1))
        errors.setdefault(name, []).append(float(abs(pixels.astype(np.float64) - reference).mean()) * len(pixels))

    with progress_bar("images", len(items)) as advance:
        for chunk in batches(items):
            images = [read_image(item) for item in chunk]
            exact = np.stack([model_input(image, contract) for image in images])
            target, corner = geometry(*images[0].size, contract)  # the rows' own geometry is the contract's
            resized = images[0].resize(target, INTERPOLATIONS[contract.interpolation])
            assert np.array_equal(cropped(np.asarray(resized), corner, contract.crop), exact[0])
            ask("the contract", exact, exact)
            for name, mismatch in rows.items():
                ask(name, np.stack([mismatch(image) for image in images]), exact)
            small = [drafted(item, contract.resize) for item in chunk]
            shrunk += sum(one.size != image.size for one, image in zip(small, images, strict=True))
            ask("JPEG draft mode", np.stack([model_input(image, contract) for image in small]), exact)
            for name, prepare in raw.items():
                answers.setdefault(name, []).append(run(prepare(exact, contract)).argmax(-1))
            advance(len(chunk))
    notes.append(f"JPEG draft mode decoded {shrunk} of {len(items)} images smaller")
    means = {name: sum(parts) / len(items) for name, parts in errors.items()}
    return {name: np.concatenate(parts) for name, parts in answers.items()}, means, notes


def print_rows(answers: dict[str, np.ndarray], errors: dict[str, float], labels: np.ndarray) -> None:
    """One Markdown table, the contract first."""
    reference = answers["the contract"]
    right, n = reference == labels, len(labels)
    print("| preprocessing | top-1, % | points against the contract (95 %) | McNemar p | same label, % | pixels off |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, answer in answers.items():
        now = answer == labels
        gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
        low, high = wilson_interval(int(now.sum()), n)
        text = f"| {name} | {100 * now.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}) |"
        if name == "the contract":
            print(f"{text} - | - | 100.0 | 0 |")
            continue
        bounds = [100 * bound for bound in paired_interval(gained, lost, n)]
        pixels = f"{errors[name]:.2f}" if name in errors else "-"
        print(
            f"{text} {100 * (gained - lost) / n:+.1f} ({bounds[0]:+.1f} to {bounds[1]:+.1f}) | "
            f"{mcnemar_p(gained, lost):.2g} | {100 * (answer == reference).mean():.1f} | {pixels} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--export", type=Path)
    source.add_argument("--student")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int, help="Another side than the timm model's own.")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, help="At most so many images, spread evenly.")
    options = parser.parse_args()

    started = time.perf_counter()
    if options.export:
        model = load(options.export, "cpu")
        session, contract, kind = model.session, model.preprocessing, model.entry.input
        name, classes = str(options.export), model.classes
    else:
        session, contract, kind = timm_graph(options.student, options.weights, options.image_size)
        name, classes = options.student, None
    items, labels = labelled_items(options, classes)
    answers, errors, notes = measure(lambda batch: session.infer(batch), kind, contract, items)
    print(
        f"{name}, {len(items)} images; the contract: shorter side to {contract.resize}, {contract.interpolation}, "
        f"centre crop {contract.crop}, Pillow {Image.__version__}; {platform.machine()}, ONNX Runtime CPU; "
        f"pixels off = mean absolute difference of 255; {time.perf_counter() - started:.0f} s"
    )
    print_rows(answers, errors, labels)
    for note in notes:
        print(f"{note}.")


if __name__ == "__main__":
    main()

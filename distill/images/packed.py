"""Packed images: every training image decoded once to uint8 [side, side, 3], memory-mapped.

The whole image is squeezed to a square, so that every row has one shape and a crop box scales by one factor per axis.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from PIL import Image

from dhox.artefacts.files import free_bytes
from dhox.artefacts.shards import Recipe
from dhox.data.dataset import Item, read_image
from dhox.distill.images.shards import (
    Rows,
    filled_rows,
    missing_rows,
    prepare,
    read_shards,
    rows_per_file,
    share_of,
    write_rows,
)
from dhox.distill.processes import first_then_all
from dhox.errors import DhoxError
from dhox.progress import progress_bar

RECIPE: Recipe = {"rows": "packed images", "resize": "bicubic"}
PER_INPUT = 10 / 7  # about 1 / sqrt(SCALE[0])


def packed_side(image_size: int, sizes: np.ndarray) -> int:
    """The side of packed images for a student's size in pixels: 320 for 224; never more than the largest image has.

    `sizes`: width and height of the images, int [N, 2]. The side feeds the smallest square crop (0.71 of it) without
    enlarging it. On photographs more gave nothing that could be measured, and less lost points
    (benchmarks/packed_size.py, docs/scale.md).
    """
    return min(ceil(PER_INPUT * image_size), int(sizes.max()))


def pack(item: Item, side: int, jpeg_side: int | None = None) -> np.ndarray:
    """One image as uint8 [side, side, 3]. `jpeg_side`: see dhox.data.images.decode."""
    image = read_image(item, jpeg_side)
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC))


def _packed_batches(items: list[Item], side: int, jpeg_side: int | None) -> Iterator[np.ndarray]:
    """The packed images in order, in batches, decoded by as many threads as there are cores (Pillow frees the lock)."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), 16 * threads):
            some = items[start : start + 16 * threads]
            yield np.stack(list(pool.map(lambda item: pack(item, side, jpeg_side), some)))


def packed_rows(
    fabric: Fabric, root: Path, items: list[Item], keys: np.ndarray, side: int, jpeg_side: int | None = None
) -> Rows:
    """The images packed to `side` pixels, packed where the directory lacks them, by all processes together.

    `jpeg_side`: see dhox.data.images.decode; images that were decoded scaled lie in a directory of their own.
    """
    folder = root / (f"packed-{side}" if jpeg_side is None else f"packed-{side}-scaled-{jpeg_side}")
    with first_then_all(fabric):
        prepare_packed(folder, side, jpeg_side)
    fill_packed(folder, items, keys, side, fabric, jpeg_side)
    return filled_rows(fabric, folder, keys)


def fill_packed(
    folder: Path, items: list[Item], keys: np.ndarray, side: int, fabric: Fabric, jpeg_side: int | None = None
) -> None:
    """Pack this process's share of the images that the directory lacks. Raises DhoxError where the disk is full."""
    shape = (side, side, 3)
    per_file = rows_per_file(shape, "uint8")
    shards, free = read_shards(folder, checksums=False), free_bytes(folder)
    fabric.barrier()  # every process has seen the same files before the first one writes
    missing = missing_rows(keys, shards)
    share = share_of(missing, per_file, fabric.global_rank, fabric.world_size)
    need = len(missing) * side * side * 3
    if need > 0.98 * free:
        raise DhoxError(
            f"Packing {len(missing)} images of {side} x {side} pixels needs {need / 1e9:.1f} GB, and {folder} has "
            f"{free / 1e9:.1f} GB free.",
            "Choose a smaller --packed-size (0: decode in every epoch) or another --cache.",
        )
    if len(share):
        with progress_bar("Packing images", len(share)) as advance:
            chosen = [items[i] for i in share]
            write_rows(folder, keys[share], _packed_batches(chosen, side, jpeg_side), per_file, advance)


def prepare_packed(folder: Path, side: int, jpeg_side: int | None = None) -> None:
    """Create the directory of packed images, or check that it is one of this side and decoding."""
    recipe = RECIPE if jpeg_side is None else RECIPE | {"jpeg_side": jpeg_side}
    prepare(folder, recipe, (side, side, 3), "uint8")


def to_packed_boxes(boxes: np.ndarray, sizes: np.ndarray, side: int) -> np.ndarray:
    """View boxes [B, 5] in pixels of the originals (sizes [B, 2], width and height) to packed pixels, float32."""
    factors = side / sizes.astype(np.float64)
    return np.concatenate([boxes[:, :4] * np.tile(factors, 2), boxes[:, 4:]], axis=1).astype(np.float32)

"""The student's training images: packed in host memory or on the device, or decoded at every use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.common import Preprocessing
from dhox.distill.images.pixels import channels, to_model
from dhox.distill.images.resample import model_views
from dhox.distill.images.shards import Rows
from dhox.distill.training.prefetch import Batch, Boxes, DecodedPixels, PackedPixels, Pixels

DEVICE_SHARE = 0.5  # of a GPU's free memory that packed images may take


def resident_images(rows: Rows, fabric: Fabric) -> torch.Tensor | None:
    """All packed images on the device, uint8 [N, side, side, 3]; None on a CPU and where they do not fit."""
    if fabric.device.type != "cuda":
        return None
    total = len(rows) * int(np.prod(rows.row_shape))
    if total > DEVICE_SHARE * torch.cuda.mem_get_info(fabric.device)[0]:
        return None
    images = torch.empty((len(rows), *rows.row_shape), dtype=torch.uint8, device=fabric.device)
    for start in range(0, len(rows), 1024):
        numbers = np.arange(start, min(start + 1024, len(rows)))
        chunk = np.empty((len(numbers), *rows.row_shape), np.uint8)
        images[start : start + len(numbers)] = torch.from_numpy(rows.take(numbers, chunk)).to(fabric.device)
    return images


def packed_inputs(
    rows: Rows,
    resident: torch.Tensor | None,
    boxes: Boxes,
    preprocessing: Preprocessing,
    fabric: Fabric,
    compiled: bool,
) -> tuple[Pixels, Callable[[Batch], torch.Tensor]]:
    """(where a batch's pixels come from, batch -> normalised images [B, 3, size, size] on the device).

    `resident`: all packed images on the device (see resident_images), or None to send each batch's.
    """
    views = torch.compile(model_views) if compiled else model_views
    centre, spread = (
        channels(values, fabric.device).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )

    def images_of(batch: Batch) -> torch.Tensor:
        assert batch.boxes is not None
        numbers = fabric.to_device(batch.numbers)
        pixels = fabric.to_device(batch.pixels) if resident is None else resident[numbers]
        boxes = fabric.to_device(batch.boxes)
        return views(pixels, boxes, preprocessing.crop, preprocessing.interpolation, centre, spread)

    return PackedPixels(rows, boxes, resident is not None), images_of


def decoded_inputs(
    pixels: DecodedPixels, preprocessing: Preprocessing, fabric: Fabric
) -> tuple[Pixels, Callable[[Batch], torch.Tensor]]:
    """The same, for images that are decoded at every use."""

    def images_of(batch: Batch) -> torch.Tensor:
        return to_model(fabric.to_device(batch.pixels), preprocessing.mean, preprocessing.std)

    return pixels, images_of

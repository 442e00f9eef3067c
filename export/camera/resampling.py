"""Pillow's resize of one axis as a matrix: the same weights, to the bit (Pillow's Resample.c and Geometry.c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import LARGEST_FRAME, Camera
from dhox.data.images import INTERPOLATIONS, placed
from dhox.errors import DhoxError

PRECISION_BITS = 22  # of Pillow's weights for 8-bit images


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981 with a = -0.5, as Pillow has it."""
    x = abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {  # support, and value at x
    "bilinear": (1, lambda x: np.maximum(1 - abs(x), 0)),
    "bicubic": (2, _bicubic),
    "lanczos": (3, lambda x: np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def resize_weights(before: int, after: int, interpolation: str) -> np.ndarray:
    """float64 [before, after]: column j holds the weights of the input pixels in output pixel j."""
    weights = np.zeros((before, after))
    scale = before / after
    if before == after:
        return np.eye(before)
    if interpolation == "nearest":
        steps = np.full(after, scale)
        steps[0] = scale * 0.5
        weights[np.minimum(np.add.accumulate(steps).astype(int), before - 1), np.arange(after)] = 1
        return weights
    support, kernel = KERNELS[interpolation]
    stretch = max(scale, 1.0)
    for j in range(after):
        center = (j + 0.5) * scale
        first = max(int(center - support * stretch + 0.5), 0)
        last = min(int(center + support * stretch + 0.5), before)
        values = kernel((np.arange(first, last) - center + 0.5) / stretch)
        fixed = values / values.sum() * (1 << PRECISION_BITS)
        weights[first:last, j] = np.trunc(fixed + np.copysign(0.5, fixed)) / (1 << PRECISION_BITS)
    return weights


@dataclass(frozen=True)
class Resize:
    """The way from a frame to the model's input as two matrices.

    `rows` [H, crop] and `columns` [W, crop]: of the frame as delivered, zero outside the region and the crop.
    `turned`: rows of the frame become columns of the picture. `rows_first`: the order of Pillow, which rounds between.
    """

    rows: np.ndarray
    columns: np.ndarray
    turned: bool
    rows_first: bool


def vertical_first(before: tuple[int, int], after: tuple[int, int], interpolation: str) -> bool:
    """Whether the Pillow that is installed resizes such images, (width, height), vertically first.

    It always began with the horizontal; from 13.0 on tall images may be resized vertically first. So it is asked.
    """
    noise = np.random.default_rng(0).integers(0, 256, before[::-1], np.uint8)
    image, kernel = Image.fromarray(noise), INTERPOLATIONS[interpolation]
    at_once = np.asarray(image.resize(after, kernel))
    down_then_across = np.asarray(image.resize((before[0], after[1]), kernel).resize(after, kernel))
    across_then_down = np.asarray(image.resize((after[0], before[1]), kernel).resize(after, kernel))
    return not np.array_equal(at_once, across_then_down) and np.array_equal(at_once, down_then_across)


def resize_of(camera: Camera, preprocessing: Preprocessing) -> Resize:
    """Region, resize, crop and rotation of a camera's frames, as `model_input` of the upright picture does them."""
    region, crop = camera.region, preprocessing.crop
    (width, height), left, top = placed((region.width, region.height), preprocessing)
    if max(width, height) > LARGEST_FRAME:
        raise DhoxError(
            f"The region {region.width}x{region.height} becomes {width}x{height} pixels before the crop.",
            "Give a --roi that is less narrow.",
        )
    picture_width, picture_height = camera.upright
    across = np.zeros((picture_width, crop))
    down = np.zeros((picture_height, crop))
    kernel = preprocessing.interpolation
    across[region.x : region.x + region.width] = resize_weights(region.width, width, kernel)[:, left : left + crop]
    down[region.y : region.y + region.height] = resize_weights(region.height, height, kernel)[:, top : top + crop]
    down_first = vertical_first((region.width, region.height), (width, height), kernel)
    if camera.rotate == 90:
        return Resize(across[::-1], down, True, not down_first)
    if camera.rotate == 180:
        return Resize(down[::-1], across[::-1], False, down_first)
    if camera.rotate == 270:
        return Resize(across, down[::-1], True, not down_first)
    return Resize(down, across, False, down_first)

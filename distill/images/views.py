"""Views: augmented crops as pure functions of (seed, image name, view number), the same for teacher and student."""

from __future__ import annotations

import hashlib
from math import log

import numpy as np
from PIL import Image

from dhox.artefacts.shards import Recipe
from dhox.data.images import INTERPOLATIONS

SCALE = (0.5, 1.0)  # share of the image's area, as the DHO authors crop
RATIO = (3 / 4, 4 / 3)  # width / height of the crop
TRIES = 10
RECIPE: Recipe = {"crop": "random-resized", "scale": [*SCALE], "ratio": [*RATIO], "generator": "philox4x32-10"}


def view_keys(names: list[str], seed: int) -> np.ndarray:
    """The generator's key of each image, uint64 [N]: a hash of (seed, name)."""
    digests = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def philox(counters: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    counters uint32 [N, 4] and keys uint64 [N] to random uint32 [N, 4].
    """
    low = np.uint64(0xFFFFFFFF)
    a, b, c, d = (counters[:, i].astype(np.uint64) for i in range(4))
    key_a, key_b = keys & low, keys >> np.uint64(32)
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (right >> np.uint64(32)) ^ b ^ key_a, right & low
        c, d = (left >> np.uint64(32)) ^ d ^ key_b, left & low
        key_a, key_b = (key_a + np.uint64(0x9E3779B9)) & low, (key_b + np.uint64(0xBB67AE85)) & low
    return np.stack([a, b, c, d], axis=1).astype(np.uint32)


def _uniforms(keys: np.ndarray, views: np.ndarray, draw: int) -> np.ndarray:
    """Four numbers in [0, 1) per image for its view number and the draw 0, 1, ..., float64 [N, 4]."""
    counters = np.zeros((len(keys), 4), np.uint32)
    counters[:, 0], counters[:, 1] = draw, views
    return philox(counters, keys) / 2.0**32


def view_boxes(keys: np.ndarray, views: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The views as (left, top, width, height, flip) in pixels of the upright originals, int64 [N, 5].

    `keys`: uint64 [N] of `view_keys`; `views`: view numbers int [N]; `sizes`: (width, height) of the images, int
    [N, 2]. The random-resized crop of Szegedy et al. 2015 with torchvision's rules (area in SCALE, log-uniform ratio in
    RATIO, ten tries, then the largest centred crop of an allowed ratio), and a flip in half of the cases. Drawn from a
    counter-based generator: nothing about a view needs storing.
    """
    width, height = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
    w = np.minimum(width, np.rint(height * RATIO[1]).astype(np.int64))
    h = np.minimum(height, np.rint(width / RATIO[0]).astype(np.int64))
    boxes = np.stack([(width - w) // 2, (height - h) // 2, w, h, _uniforms(keys, views, 0)[:, 0] < 0.5], axis=1)
    open_rows = np.arange(len(keys))
    for draw in range(1, TRIES + 1):
        u = _uniforms(keys[open_rows], views[open_rows], draw)
        wide, high = width[open_rows], height[open_rows]
        area = wide * high * (SCALE[0] + (SCALE[1] - SCALE[0]) * u[:, 0])
        ratio = np.exp(log(RATIO[0]) + (log(RATIO[1]) - log(RATIO[0])) * u[:, 1])
        w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= wide) & (h > 0) & (h <= high)
        left, top = (u[:, 2] * (wide - w + 1)).astype(np.int64), (u[:, 3] * (high - h + 1)).astype(np.int64)
        boxes[open_rows[fits], :4] = np.stack([left, top, w, h], axis=1)[fits]
        open_rows = open_rows[~fits]
        if not len(open_rows):
            break
    return boxes


def render(image: Image.Image, box: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Crop and resize one view of an RGB image to uint8 [size, size, 3], antialiased (Pillow)."""
    left, top, width, height, flip = box.tolist()
    crop = image.crop((left, top, left + width, top + height))
    crop = crop.resize((size, size), INTERPOLATIONS[interpolation])
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)

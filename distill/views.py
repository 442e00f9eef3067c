"""Views: augmented crops as pure functions of (seed, image name, view number), the same for teacher and student."""

from __future__ import annotations

import hashlib
from math import exp, log
from typing import NamedTuple

import numpy as np
from PIL import Image

from dhox.images import INTERPOLATIONS

SCALE = (0.5, 1.0)  # share of the image's area, as the DHO authors crop
RATIO = (3 / 4, 4 / 3)  # width / height of the crop


class View(NamedTuple):
    """A crop box in pixels of the upright original, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def view_of(seed: int, name: str, view: int, width: int, height: int) -> View:
    """The view number `view` of the image `name` of width x height pixels.

    The random-resized crop of Szegedy et al. 2015 with torchvision's rules (area in SCALE, log-uniform ratio in RATIO,
    ten tries, then the largest centred crop of an allowed ratio), and a flip in half of the cases. Drawn from a
    counter-based generator (Philox) whose key is a hash of the arguments: nothing about a view needs storing.
    """
    digest = hashlib.blake2b(f"{seed}\0{name}\0{view}".encode(), digest_size=16).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))
    flip = bool(random.random() < 0.5)
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        ratio = exp(random.uniform(log(RATIO[0]), log(RATIO[1])))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return View(left, top, w, h, flip)
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return View((width - w) // 2, (height - h) // 2, w, h, flip)


def render(image: Image.Image, view: View, size: int, interpolation: str) -> np.ndarray:
    """Crop and resize one view of an RGB image to uint8 [size, size, 3], antialiased (Pillow)."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    crop = image.resize((size, size), INTERPOLATIONS[interpolation], box=box)
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else crop)

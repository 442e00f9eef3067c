"""Synthetic images for graphs that must be checked where no real image is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 64
SIDE = 256


def write_synthetic_images(folder: Path, count: int = COUNT) -> None:
    """`count` smooth random JPEGs of SIDE x SIDE pixels, always the same: coarse noise, enlarged."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        cells = int(random.integers(2, 24))
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.jpg", quality=90)

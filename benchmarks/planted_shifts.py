"""Planted shifts of images, for benchmarks/drift.py: two sets of different kinds, one to develop on, one to report.

The changes are those that `dhox export --rehearse-drift` rehearses; no reported strength equals a rehearsed one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dhox.export.rehearsal.alterations import (
    Change,
    blur,
    brightness,
    contrast,
    crop,
    cutout,
    fog,
    gamma,
    jpeg,
    motion,
    moved,
    narrow,
    noise,
    pixelate,
    posterize,
    rotation,
    salt,
    sharpen,
    shear,
)

SIDE = 28  # pixels of the demo's images, in which lengths are given here
LENGTHS = (blur, motion, moved)


class Shift(NamedTuple):
    """A change of RGB images with one strength: pixels of an image of SIDE pixels for LENGTHS."""

    kind: str
    strength: float
    way: Change

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g}"

    def change(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The image, changed."""
        return self.way(image, self.strength / SIDE if self.way in LENGTHS else self.strength, rng)


def solarize(image: Image.Image, threshold: float, rng: np.random.Generator) -> Image.Image:
    """Inverted above a threshold; a kind that is never rehearsed."""
    return ImageOps.solarize(image, int(threshold))


def shifts(kinds: dict[Change, list[float]]) -> list[Shift]:
    """A shift for every strength."""
    return [Shift(change.__name__, strength, change) for change, values in kinds.items() for strength in values]


# Lengths in pixels, factors, degrees, JPEG qualities, standard deviations.
REPORTED = shifts({
    blur: [0.5, 0.8, 1.2], brightness: [0.6, 0.8, 1.3, 1.6], contrast: [0.5, 0.7, 1.5], crop: [0.95, 0.9, 0.8, 0.7],
    rotation: [5, 10, 20], jpeg: [40, 20, 8], noise: [8, 16, 32],
})  # fmt: skip
DEVELOPMENT = shifts({
    motion: [3, 5, 7], pixelate: [0.7, 0.5, 0.35], gamma: [0.5, 0.7, 1.5, 2.2], posterize: [3, 2, 1],
    cutout: [0.2, 0.35, 0.5], shear: [0.1, 0.2, 0.4], salt: [0.01, 0.03, 0.08], moved: [1, 2, 4], sharpen: [3, 8],
    fog: [0.1, 0.25, 0.5], narrow: [0.9, 0.75, 0.6], solarize: [220, 180],
})  # fmt: skip

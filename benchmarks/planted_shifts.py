"""Planted shifts of images, for benchmarks/drift.py: two sets of different kinds, one to develop on, one to report."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

Change = Callable[[Image.Image, float, np.random.Generator], Image.Image]


class Shift(NamedTuple):
    """A change of RGB images with one strength."""

    kind: str
    strength: float
    change: Change

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g}"


def as_image(pixels: np.ndarray) -> Image.Image:
    """Numbers [H, W, 3] as an image."""
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def numbers(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


# The reported kinds. Strengths are in pixels of the image, factors, degrees, JPEG qualities, standard deviations.
def blur(image: Image.Image, radius: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def brightness(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    x, y = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    return image.resize(image.size, Image.Resampling.BILINEAR, (x, y, image.width - x, image.height - y))


def rotation(image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def jpeg(image: Image.Image, quality: float, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    return as_image(numbers(image) + rng.normal(0, deviation, (image.height, image.width, 1)))


# The kinds to develop on.
def motion(image: Image.Image, length: float, rng: np.random.Generator) -> Image.Image:
    half, pixels = int(length) // 2, numbers(image)
    return as_image(np.mean([np.roll(pixels, step, 1) for step in range(-half, half + 1)], 0))


def pixelate(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    small = image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def gamma(image: Image.Image, power: float, rng: np.random.Generator) -> Image.Image:
    return as_image(255 * (numbers(image) / 255) ** power)


def posterize(image: Image.Image, bits: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, int(bits))


def cutout(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    pixels, side = numbers(image), int(share * image.height)
    y, x = rng.integers(0, image.height - side + 1), rng.integers(0, image.width - side + 1)
    pixels[y : y + side, x : x + side] = 0
    return as_image(pixels)


def shear(image: Image.Image, slope: float, rng: np.random.Generator) -> Image.Image:
    matrix = (1, slope, -slope * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def salt(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    pixels, drawn = numbers(image), rng.random((image.height, image.width))
    pixels[drawn < share / 2], pixels[drawn > 1 - share / 2] = 0, 255
    return as_image(pixels)


def moved(image: Image.Image, pixels: float, rng: np.random.Generator) -> Image.Image:
    return ImageChops.offset(image, int(pixels), int(pixels))


def sharpen(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


def fog(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    return as_image((1 - share) * numbers(image) + share * 200)


def narrow(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    small = image.resize((int(image.width * factor), image.height), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", image.size)
    canvas.paste(small, ((image.width - small.width) // 2, 0))
    return canvas


def solarize(image: Image.Image, threshold: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, int(threshold))


def shifts(kinds: dict[Change, list[float]]) -> list[Shift]:
    return [Shift(change.__name__, strength, change) for change, values in kinds.items() for strength in values]


REPORTED = shifts({
    blur: [0.5, 0.8, 1.2], brightness: [0.6, 0.8, 1.3, 1.6], contrast: [0.5, 0.7, 1.5], crop: [0.95, 0.9, 0.8, 0.7],
    rotation: [5, 10, 20], jpeg: [40, 20, 8], noise: [8, 16, 32],
})  # fmt: skip
DEVELOPMENT = shifts({
    motion: [3, 5, 7], pixelate: [0.7, 0.5, 0.35], gamma: [0.5, 0.7, 1.5, 2.2], posterize: [3, 2, 1],
    cutout: [0.2, 0.35, 0.5], shear: [0.1, 0.2, 0.4], salt: [0.01, 0.03, 0.08], moved: [1, 2, 4], sharpen: [3, 8],
    fog: [0.1, 0.25, 0.5], narrow: [0.9, 0.75, 0.6], solarize: [220, 180],
})  # fmt: skip

"""Alterations of images that stand for what a field may do to them, each with one strength, deterministic.

Every function takes an RGB image, a strength and a generator (which few need), and gives an image of the same size.
Lengths are shares of the image's side, so that images of 28 and of 224 pixels are altered alike.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

Change = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def as_image(pixels: np.ndarray) -> Image.Image:
    """Numbers [H, W, 3] as an image."""
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def numbers(image: Image.Image) -> np.ndarray:
    """Float64 [H, W, 3] in [0, 255]."""
    return np.asarray(image).astype(float)


def blur(image: Image.Image, radius: float, rng: np.random.Generator) -> Image.Image:
    """Out of focus: a Gaussian whose standard deviation is this share of the height."""
    return image.filter(ImageFilter.GaussianBlur(radius * image.height))


def motion(image: Image.Image, length: float, rng: np.random.Generator) -> Image.Image:
    """Moved while exposed: the mean over this share of the width, an odd number of pixels, round the edge."""
    half, pixels = max(1, round(length * image.width) // 2), numbers(image)
    padded = np.pad(pixels, ((0, 0), (half + 1, half), (0, 0)), mode="wrap").cumsum(1)
    return as_image((padded[:, 2 * half + 1 :] - padded[:, : -2 * half - 1]) / (2 * half + 1))


def pixelate(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Few pixels: made smaller by this factor and larger again."""
    small = image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def brightness(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Exposed otherwise: all values times this factor."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """The distance to the mean gray, times this factor."""
    return ImageEnhance.Contrast(image).enhance(factor)


def gamma(image: Image.Image, power: float, rng: np.random.Generator) -> Image.Image:
    """Another tone curve: values in [0, 1] to this power."""
    return as_image(255 * (numbers(image) / 255) ** power)


def crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Nearer: the middle of this share of each side, enlarged."""
    x, y = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    return image.resize(image.size, Image.Resampling.BILINEAR, (x, y, image.width - x, image.height - y))


def rotation(image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    """A camera that hangs askew, by these degrees; the corners are black."""
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def jpeg(image: Image.Image, quality: float, rng: np.random.Generator) -> Image.Image:
    """Compressed with this JPEG quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """Gray Gaussian noise of this standard deviation, of 255."""
    return as_image(numbers(image) + rng.normal(0, deviation, (image.height, image.width, 1)))


def cutout(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Covered: a black square of this share of the height, anywhere."""
    pixels, side = numbers(image), int(share * image.height)
    y, x = rng.integers(0, image.height - side + 1), rng.integers(0, image.width - side + 1)
    pixels[y : y + side, x : x + side] = 0
    return as_image(pixels)


def moved(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Off the middle: moved by this share of the width, right and down, round the edge."""
    by = round(share * image.width)
    return ImageChops.offset(image, by, by)


def narrow(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Squeezed to this share of the width, on black."""
    small = image.resize((int(image.width * factor), image.height), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", image.size)
    canvas.paste(small, ((image.width - small.width) // 2, 0))
    return canvas


def sharpen(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    """Sharpened by a camera: the distance to the smoothed image, times this factor."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def fog(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Mixed with light gray, this share of it."""
    return as_image((1 - share) * numbers(image) + share * 200)


def salt(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """This share of the pixels black or white."""
    pixels, drawn = numbers(image), rng.random((image.height, image.width))
    pixels[drawn < share / 2], pixels[drawn > 1 - share / 2] = 0, 255
    return as_image(pixels)


def shear(image: Image.Image, slope: float, rng: np.random.Generator) -> Image.Image:
    """Slanted: each row moved by this slope times its distance to the middle."""
    matrix = (1, slope, -slope * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def posterize(image: Image.Image, bits: float, rng: np.random.Generator) -> Image.Image:
    """Few colours: this many bits of each."""
    return ImageOps.posterize(image, int(bits))


# What is rehearsed: common failures of cameras, lenses, light and mounting, from hardly visible to strong.
REHEARSED: list[tuple[Change, list[float]]] = [
    (blur, [0.02, 0.035, 0.05]), (motion, [0.1, 0.18, 0.25]), (pixelate, [0.7, 0.45]),
    (brightness, [0.5, 0.7, 1.4, 1.8]), (contrast, [0.4, 0.6, 0.8, 1.3]), (gamma, [0.6, 1.8]),
    (crop, [0.92, 0.85, 0.75, 0.65]), (rotation, [7, 14, 25]), (jpeg, [30, 12, 6]), (noise, [12, 24, 40]),
    (cutout, [0.25, 0.4]), (moved, [0.05, 0.1, 0.15]), (narrow, [0.85, 0.7]), (sharpen, [4]), (fog, [0.1, 0.3]),
    (salt, [0.02, 0.05]), (shear, [0.15, 0.3]), (posterize, [2]),
]  # fmt: skip

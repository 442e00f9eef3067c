"""Image files to pixels, in one way for training, validation, ledger, bench and predict (numpy and Pillow only)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from dhox.artefacts.common import Preprocessing
from dhox.errors import DhoxError

ALWAYS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tga", ".qoi", ".pcx", ".ico", ".sgi", ".dds", ".psd",
}  # fmt: skip
CODECS = {"webp": {".webp"}, "avif": {".avif"}, "jpg_2000": {".jp2", ".j2k", ".jpx", ".jpf"}}  # as Pillow was built
SUFFIXES = frozenset(ALWAYS).union(*(suffixes for codec, suffixes in CODECS.items() if features.check(codec)))
with suppress(ImportError):  # the extra `heic`
    import pillow_heif  # type: ignore[import-not-found, unused-ignore]

    pillow_heif.register_heif_opener()
    SUFFIXES |= {".heic", ".heif"}
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DCT_SCALED = {"JPEG", "MPO"}  # what can be decoded smaller; MPO: the JPEGs of many phones


class UnreadableImageError(DhoxError):
    """One image file that cannot be decoded: `name`, and `why`."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.why = name, reason
        super().__init__(f"{name} cannot be read as an image ({reason}).", "Replace or remove it.")


def decode(source: Path | BinaryIO, name: str | None = None, jpeg_side: int | None = None) -> Image.Image:
    """Decode one image to RGB, 8 bits, upright (EXIF orientation applied).

    Alpha is laid over black, palettes go through RGBA, 16-bit samples are shifted right by 8. `jpeg_side`: a JPEG is
    decoded at 1/s of its sides (rounded up), s the largest of 1, 2, 4, 8 with a shorter side of at least
    s * `jpeg_side` pixels; None, and every other format: in full. Raises UnreadableImageError for what is no image, is
    truncated, or is a decompression bomb by Pillow's limit (more than 178,956,970 pixels).
    """
    name = name or str(source)
    try:
        image = Image.open(source)
        if jpeg_side is not None and image.format in DCT_SCALED:
            image.draft("RGB", (jpeg_side, jpeg_side))  # by the very rule above
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image, name)
    except Image.DecompressionBombError as err:
        raise UnreadableImageError(name, f"a decompression bomb: {err}") from err
    except UnidentifiedImageError as err:
        raise UnreadableImageError(name, "not an image that Pillow knows") from err
    except UnreadableImageError:
        raise
    except Exception as err:  # Pillow's plugins raise many types on damaged bytes (struct.error, KeyError ...)
        raise UnreadableImageError(name, str(err) or type(err).__name__) from err


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any Pillow mode to RGB, by the rules of `decode`; an RGB image is given back as it is."""
    if image.mode.startswith("I"):
        samples = np.asarray(image, np.int64) >> 8
        image = Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError(name, "floating-point samples have no agreed range; save it with 8 or 16 bits")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"}:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def model_input(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """An RGB image to the model's input, uint8 [crop, crop, 3].

    Shorter side to `resize`, longer to int(resize * long / short) (`squash`: to `resize` too), with the named Pillow
    kernel; then the centre crop whose corner is int(round((side - crop) / 2)), as torchvision rounds.
    """
    target, left, top = placed(image.size, preprocessing)
    if target != image.size:
        image = image.resize(target, INTERPOLATIONS[preprocessing.interpolation])
    if target == (preprocessing.crop, preprocessing.crop):
        return np.asarray(image)
    return np.asarray(image.crop((left, top, left + preprocessing.crop, top + preprocessing.crop)))


def placed(image: tuple[int, int], preprocessing: Preprocessing) -> tuple[tuple[int, int], int, int]:
    """(width, height) of an image after the resize, and left and top of the crop in it (see `model_input`)."""
    width, height = image
    short, size = min(width, height), preprocessing.resize
    target = (
        size if width == short or preprocessing.squash else int(size * width / short),
        size if height == short or preprocessing.squash else int(size * height / short),
    )
    left, top = (round((side - preprocessing.crop) / 2) for side in target)
    return target, left, top


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [B, H, W, 3] to the conventional float32 [B, 3, H, W] for graphs with `--input float-nchw`."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    scaled = (scaled - np.asarray(preprocessing.mean, np.float32)) / np.asarray(preprocessing.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

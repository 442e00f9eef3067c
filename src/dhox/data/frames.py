"""Frames of a camera as pictures, and pictures as frames: the reference that camera files are held against (float)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera
from dhox.data.images import model_input
from dhox.errors import DhoxError

# Shares of red and blue in luma: ITU-R BT.601-7 section 2.5.1 and BT.709-6 section 3.2.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
BACK = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def rgb_of_yuv(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(matrix [3, 3], offset [3]) of nv12 and yuyv: RGB = matrix @ (YUV - offset), all of them from 0 to 255.

    Luma of the limited range lies from 16 to 235, chroma from 16 to 240.
    """
    red, blue = LUMA[camera.colour or "bt601"]
    green = 1 - red - blue
    matrix = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    if camera.range == "full":
        return matrix, np.array([0.0, 128, 128])
    return matrix * [255 / 219, 255 / 224, 255 / 224], np.array([16.0, 128, 128])


def check_frames(frames: np.ndarray, camera: Camera) -> np.ndarray:
    """The same frames [N, ...]. Raises DhoxError, which shows both, where they are not what the camera delivers."""
    if frames.dtype != np.uint8 or frames.shape[1:] != camera.shape:
        raise DhoxError(
            f"A frame is {frames.dtype} {list(frames.shape[1:])}, and this model takes uint8 {list(camera.shape)} "
            f"({camera.size} {camera.format}).",
            "Set the camera to that size and format, or export for this one: dhox export EXPORT --camera WIDTHxHEIGHT",
        )
    return frames


def picture(frame: np.ndarray, camera: Camera) -> Image.Image:
    """One frame, uint8 of `camera.shape`, as the upright RGB picture that is classified.

    Chroma is repeated over the pixels that share it, as OpenCV and libyuv do; colours are rounded to 8 bits.
    """
    colours = {
        "rgb": lambda: frame, "bgr": lambda: frame[..., ::-1],
        "gray": lambda: np.repeat(frame[..., None], 3, axis=-1),
    }.get(camera.format, lambda: _from_yuv(_planes(frame, camera), camera))()  # fmt: skip
    return region_of(Image.fromarray(np.ascontiguousarray(colours)), camera)


def region_of(image: Image.Image, camera: Camera) -> Image.Image:
    """What is classified of a frame in RGB: turned upright, cut to the region."""
    if camera.rotate:
        image = image.transpose(TURNS[camera.rotate])
    roi = camera.roi
    return image.crop((roi.x, roi.y, roi.x + roi.width, roi.y + roi.height)) if roi else image


def frame_input(frame: np.ndarray, camera: Camera, preprocessing: Preprocessing) -> np.ndarray:
    """One frame as the model's input by Pillow, uint8 [crop, crop, 3]."""
    return model_input(picture(frame, camera), preprocessing)


def _planes(frame: np.ndarray, camera: Camera) -> np.ndarray:
    """Luma and chroma of every pixel, [H, W, 3]."""
    if camera.format == "yuyv":
        luma, chroma = frame[..., 0], frame[..., 1].reshape(camera.height, camera.width // 2, 2)
    else:
        luma, below = frame[: camera.height], frame[camera.height :]
        chroma = below.reshape(camera.height // 2, camera.width // 2, 2).repeat(2, axis=0)
    return np.concatenate([luma[..., None], chroma.repeat(2, axis=1)], -1)


def _from_yuv(yuv: np.ndarray, camera: Camera) -> np.ndarray:
    matrix, offset = rgb_of_yuv(camera)
    exact = (yuv - offset.astype(np.float32)) @ matrix.T.astype(np.float32)
    return np.clip(np.floor(exact + 0.5), 0, 255).astype(np.uint8)


def filmed(image: Image.Image, camera: Camera) -> np.ndarray:
    """An RGB image as a frame of the camera: scaled until it covers the picture, cut in its middle, turned, encoded."""
    width, height = camera.upright
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    shown = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    if camera.rotate:
        shown = shown.transpose(BACK[camera.rotate])
    if camera.format == "gray":
        return np.asarray(shown.convert("L"))
    colours = np.asarray(shown)
    if camera.format in ("rgb", "bgr"):
        return colours if camera.format == "rgb" else np.ascontiguousarray(colours[..., ::-1])
    return _to_yuv(colours, camera)


def _to_yuv(colours: np.ndarray, camera: Camera) -> np.ndarray:
    """RGB [H, W, 3] as a frame; chroma is the mean of the pixels that share it."""
    matrix, offset = rgb_of_yuv(camera)
    inverse, offset = np.linalg.inv(matrix).astype(np.float32), offset.astype(np.float32)
    height, width, rows = camera.height, camera.width, 2 if camera.format == "nv12" else 1
    exact = colours.astype(np.float32)
    luma = np.clip(np.rint(exact @ inverse[0] + offset[0]), 0, 255).astype(np.uint8)
    pairs = (exact[:, 0::2] + exact[:, 1::2]) / 2
    if rows == 2:
        pairs = (pairs[0::2] + pairs[1::2]) / 2
    chroma = np.clip(np.rint(pairs @ inverse[1:].T + offset[1:]), 0, 255).astype(np.uint8)  # [rows, W / 2, 2]
    if camera.format == "nv12":
        return np.concatenate([luma, chroma.reshape(height // 2, width)])
    return np.stack([luma, chroma.reshape(height, width)], -1)

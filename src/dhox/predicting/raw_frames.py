"""Frames of a camera as it delivers them, for camera files that take them raw: no conversion, no resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dhox.artefacts.frame import Camera, FrameFormat

FORMATS: dict[str, FrameFormat] = {  # FFmpeg's pixel formats; yuv420p holds what nv12 holds, its chroma in two planes
    "rgb24": "rgb", "bgr24": "bgr", "gray": "gray", "nv12": "nv12", "yuv420p": "nv12", "yuvj420p": "nv12",
    "yuyv422": "yuyv",
}  # fmt: skip
COLOURS = {1: "bt709", 5: "bt601", 6: "bt601"}  # AVColorSpace; others, and 2 (unspecified), do not contradict
RANGES = {1: "limited", 2: "full"}  # AVColorRange


def delivered(frame: Any) -> str:
    """A frame's size and format in words, as FFmpeg calls it."""
    return f"{frame.width}x{frame.height} {frame.format.name}"


def raw_frame(frame: Any, cameras: Sequence[Camera]) -> tuple[np.ndarray, Camera] | None:
    """A frame of PyAV as uint8 of a camera's shape, for the first of `cameras` that delivers such frames."""
    camera = next((camera for camera in cameras if fits(frame, camera)), None)
    if camera is None:
        return None
    content = frame.to_ndarray()
    if frame.format.name in ("yuv420p", "yuvj420p"):
        chroma = content[camera.height :].reshape(2, -1)
        content = np.concatenate([content[: camera.height], chroma.T.reshape(-1, camera.width)])
    return content.reshape(camera.shape), camera


def fits(frame: Any, camera: Camera) -> bool:
    """Whether a frame of PyAV is one of this camera: size, format, and colours as far as the frame tells."""
    if frame.rotation or (frame.width, frame.height) != (camera.width, camera.height):
        return False
    if FORMATS.get(frame.format.name) != camera.format:
        return False
    full = frame.format.name.startswith("yuvj")
    colour, range_ = COLOURS.get(int(frame.colorspace)), "full" if full else RANGES.get(int(frame.color_range))
    return not camera.yuv or (colour in (None, camera.colour) and range_ in (None, camera.range))

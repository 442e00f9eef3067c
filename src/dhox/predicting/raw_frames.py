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
COLOURS = {1: "bt709", 5: "bt601", 6: "bt601"}  # AVColorSpace
UNSPECIFIED = 2  # contradicts nothing
RANGES = {1: "limited", 2: "full"}  # AVColorRange


def delivered(frame: Any) -> str:
    """A frame's size and format in words, as FFmpeg calls it."""
    return f"{frame.width}x{frame.height} {frame.format.name}"


def camera_of(frame: Any) -> Camera | None:
    """The camera that delivers such frames, bt601 and limited where the frame does not say; None where no camera file
    can take them."""
    kind, space = FORMATS.get(frame.format.name), int(frame.colorspace)
    if kind is None or frame.rotation:
        return None
    colours: dict[str, Any] = {}
    if kind in ("nv12", "yuyv"):
        if space not in (*COLOURS, UNSPECIFIED):
            return None
        colours = {"colour": COLOURS.get(space, "bt601"), "range": _range(frame) or "limited"}
    try:
        return Camera(frame.width, frame.height, kind, **colours)
    except ValueError:  # an odd side
        return None


def _range(frame: Any) -> str | None:
    return "full" if frame.format.name.startswith("yuvj") else RANGES.get(int(frame.color_range))


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
    if not camera.yuv:
        return True
    space = int(frame.colorspace)
    return (space == UNSPECIFIED or COLOURS.get(space) == camera.colour) and _range(frame) in (None, camera.range)

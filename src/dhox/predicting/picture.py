"""One image to classify, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.artefacts.frame import Camera
from dhox.runtimes.predict import ImageLike


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, or a frame of a video, from a source.

    `name`: its path, or the video's. `label`: where the source knows it. `frame`, `seconds`: of a video or camera, from
    0. `arrived`: when a camera's frame was decoded, by time.perf_counter. `error`: why there is no image. `delivered`:
    size and format of a frame; `camera`: then `image` is a raw frame of it, uint8 of `camera.shape`; `shown`: the
    camera that a camera file would be for, where there can be one.
    """

    name: str
    image: ImageLike | None
    label: str | None = None
    frame: int | None = None
    seconds: float | None = None
    arrived: float | None = None
    error: str | None = None
    delivered: str | None = None
    camera: Camera | None = None
    shown: Camera | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to a picture: `probs` float32 [C], or None and why (`error`).

    `latency_ms`: from a camera's frame to its answer; None for images that wait for nobody.
    """

    picture: Picture
    probs: np.ndarray | None
    error: str | None = None
    latency_ms: float | None = None

"""camera.json beside a model that takes a camera's raw frames: what it was made from, and what proves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from dhox.artefacts.arrays import Array
from dhox.artefacts.engine import SourceFile
from dhox.artefacts.frame import Camera
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.manifest import Check, Precision
from dhox.artefacts.record import AtLeastOne, Count, FileName, Kind, Name, NotNegative, Record, Sha256, Share

CAMERA_FILE, FRAMES_FILE = "camera.json", "frames.npz"


class Cost(Record):
    """What preprocessing in the graph costs for one frame: multiply-adds as written, as whole matrix products, and the
    bytes of the frame that go to the device."""

    mac: Count
    dense_mac: Count
    frame_bytes: AtLeastOne


class PixelCheck(Record):
    """The backbone's input against Pillow's on the same `n` frames: shares of values, and the largest difference.

    `frames`: what they are, in words.
    """

    n: AtLeastOne
    frames: Name
    equal: Share
    within_one: Share
    largest: NotNegative


class CameraModel(Kind, kw_only=True):
    """A camera file. `source`: the model that it was made from. `check`: its answers against those of `source` behind
    Pillow on the same frames. `ledger`: the same on the ledger's images as frames, or why not in the note."""

    schema: Literal["dhox.camera/1"] = "dhox.camera/1"
    status: Literal["complete"] = "complete"
    finished_at: Name
    camera: Camera
    precision: Precision
    source: SourceFile
    file: FileName
    bytes: AtLeastOne
    sha256: Sha256
    opset: AtLeastOne
    ir: AtLeastOne
    cost: Cost
    pixels: PixelCheck
    check: Check
    ledger: DeviceRow | None
    ledger_note: str | None
    files: dict[FileName, Sha256]

    def __post_init__(self) -> None:
        if FRAMES_FILE not in self.files:
            raise ValueError(f"files lacks {FRAMES_FILE}")
        if (self.ledger is None) == (self.ledger_note is None):
            raise ValueError("there is no ledger, and no note says why" if self.ledger is None else "a note beside one")


@dataclass(frozen=True)
class GoldenFrames:
    """Frames that travel with a camera file. `frames`: bytes of each, in the camera's layout; `pixels`: Pillow's model
    input of them; `probs`: what the camera file answered where it was made."""

    frames: Annotated[np.ndarray, Array("uint8", "N F")]
    pixels: Annotated[np.ndarray, Array("uint8", "N H W 3")]
    probs: Annotated[np.ndarray, Array("float32", "N C")]

    def __post_init__(self) -> None:
        if not len(self.frames):
            raise ValueError("has no frame")

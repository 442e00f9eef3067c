"""Answers to frames of cameras and streams, raw where the export has a camera file for them; and what that costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dhox.errors import dhox_command
from dhox.predicting.ahead import prepare
from dhox.predicting.picture import Picture, Prediction
from dhox.predicting.raw_frames import FORMATS

if TYPE_CHECKING:
    from dhox.models.classifier import ExportedModel


@dataclass
class Cost:
    """Of the frames of one feed so far: how many, seconds before the model and in all, and how they were delivered."""

    frames: int = 0
    before: float = 0.0
    whole: float = 0.0
    delivered: str = ""
    file: str | None = None

    def text(self, name: str, export: Path, more: list[str]) -> str:
        """In a sentence, with the command that would make it cheaper; `more`: of that command."""
        ms = 1000 * self.whole / self.frames
        if self.file is not None:
            return f"{name}: {self.delivered}, raw into {self.file}: {ms:.1f} ms a frame."
        before = 1000 * self.before / self.frames
        said = f"{name}: {self.delivered}, resized by Pillow: {before:.1f} of {ms:.1f} ms a frame."
        size, _, kind = self.delivered.partition(" ")
        if kind not in FORMATS:
            return f"{said} No camera file takes {kind}: set the camera to yuyv422 or nv12, if it can."
        full = ["--camera-range", "full"] if kind.startswith("yuvj") else []
        made = dhox_command("export", export, "--camera", size, "--camera-format", FORMATS[kind], *full, *more)
        return f"{said} In the graph: {made}"


class Live:
    """Answers frames one at a time; `costs` by the name of the feed."""

    def __init__(self, model: ExportedModel) -> None:
        self.model = model
        self.costs: dict[str, Cost] = {}

    def answer(self, picture: Picture) -> Prediction:
        """The prediction of a frame, or why there is none."""
        cost = self.costs.setdefault(picture.name, Cost())
        start = time.perf_counter()
        error, probs, before, file = picture.error, None, 0.0, None
        if picture.camera is not None:
            assert isinstance(picture.image, np.ndarray)
            file, probs = self.model.frame_probs(picture.image[None], picture.camera)
        else:
            prepared = prepare(picture, self.model.preprocessing)
            before, error = time.perf_counter() - start, prepared.error
            if prepared.pixels is not None:
                probs = self.model.probs_of(prepared.pixels[None])
        now = time.perf_counter()
        if probs is not None:
            cost.frames, cost.before, cost.whole = cost.frames + 1, cost.before + before, cost.whole + now - start
            cost.delivered, cost.file = picture.delivered or "", file
        latency = None if picture.arrived is None else 1000 * (now - picture.arrived)
        return Prediction(picture, None if probs is None else probs[0], error, latency)

    def notes(self) -> list[str]:
        """What the frames of each feed cost."""
        more = ["--precision", self.model.entry.precision, *["--tensorrt"] * (self.model.device == "tensorrt")]
        return [cost.text(name, self.model.path, more) for name, cost in self.costs.items() if cost.frames]

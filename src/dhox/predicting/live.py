"""Answers to frames of cameras and streams, raw where the export has a camera file for them; and what that costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dhox.artefacts.frame import Camera
from dhox.errors import dhox_command
from dhox.predicting.ahead import prepare
from dhox.predicting.picture import Picture, Prediction

if TYPE_CHECKING:
    from dhox.models.classifier import ExportedModel


@dataclass
class Cost:
    """Of frames of one feed that came alike: how many, and seconds before the model and in all. `file`: that took them
    raw."""

    name: str
    delivered: str
    shown: Camera | None
    file: str | None
    frames: int = 0
    before: float = 0.0
    whole: float = 0.0

    def text(self, export: Path, more: list[str]) -> str:
        """In a sentence, with the command that would make it cheaper; `more`: of that command."""
        ms = 1000 * self.whole / self.frames
        if self.file is not None:
            return f"{self.name}: {self.delivered}, raw into {self.file}: {ms:.1f} ms a frame."
        before, shown = 1000 * self.before / self.frames, self.shown
        said = f"{self.name}: {self.delivered}, resized by Pillow: {before:.1f} of {ms:.1f} ms a frame."
        if shown is None:
            return f"{said} No camera file takes such frames; yuyv422 or nv12 with even sides would do."
        words = ["--camera", shown.size, "--camera-format", shown.format]
        if shown.yuv:
            words += ["--camera-colour", str(shown.colour), "--camera-range", str(shown.range)]
        return f"{said} In the graph: {dhox_command('export', export, *words, *more)}"


class Live:
    """Answers frames one at a time; `costs` by feed, and by how its frames came."""

    def __init__(self, model: ExportedModel) -> None:
        self.model = model
        self.costs: dict[tuple[str, str, str | None], Cost] = {}

    def answer(self, picture: Picture) -> Prediction:
        """The prediction of a frame, or why there is none."""
        file = None if picture.camera is None else self.model.open_frames(picture.camera)
        start = time.perf_counter()
        error, probs, before = picture.error, None, 0.0
        if picture.camera is not None:
            assert isinstance(picture.image, np.ndarray)
            probs = self.model.frame_probs(picture.image[None], picture.camera)
        else:
            prepared = prepare(picture, self.model.preprocessing)
            before, error = time.perf_counter() - start, prepared.error
            if prepared.pixels is not None:
                probs = self.model.probs_of(prepared.pixels[None])
        now = time.perf_counter()
        if probs is not None:
            delivered = picture.delivered or ""
            cost = self.costs.setdefault(
                (picture.name, delivered, file), Cost(picture.name, delivered, picture.shown, file)
            )
            cost.frames, cost.before, cost.whole = cost.frames + 1, cost.before + before, cost.whole + now - start
        latency = None if picture.arrived is None else 1000 * (now - picture.arrived)
        return Prediction(picture, None if probs is None else probs[0], error, latency)

    def notes(self) -> list[str]:
        """What the frames of each feed cost."""
        more = ["--precision", self.model.entry.precision, *["--tensorrt"] * (self.model.device == "tensorrt")]
        return [cost.text(self.model.path, more) for cost in self.costs.values()]

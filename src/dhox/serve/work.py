"""From encoded images to answers: decoded side by side, then through one model after the other."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from PIL import Image

from dhox.data.images import UnreadableImageError, decode, model_input
from dhox.serve.answers import ImageAnswer, ModelAnswer, StageTimes, model_answer
from dhox.serve.metrics import Metrics
from dhox.serve.models import Asked, ServedModel, open_models
from dhox.serve.refusal import RefusedError

DECODERS = min(4, os.cpu_count() or 1)
BUSY_SECONDS = 1  # after which a refused client may try again
BODIES = 8  # of the largest size are held at once


@dataclass(frozen=True)
class Upload:
    """An encoded image of a request. `arrived`: perf_counter() when its last byte was there."""

    name: str
    content: bytes
    arrived: float


class Work:
    """The models with the threads that feed them. One thread opens and runs all of them: a CUDA graph belongs to it,
    and models side by side do not disturb each other's times."""

    def __init__(self, asked: list[Asked], device: str, trust_engine: bool, metrics: Metrics) -> None:
        self.metrics = metrics
        self.decoders = ThreadPoolExecutor(DECODERS, "dhox-decode")
        self.runner = ThreadPoolExecutor(1, "dhox-model")
        self.models: list[ServedModel] = self.runner.submit(open_models, asked, device, trust_engine).result()

    async def answer(self, upload: Upload, top: int) -> ImageAnswer:
        """What every model says of one image; an image that cannot be read has an error instead."""
        loop = asyncio.get_running_loop()
        try:
            inputs = await loop.run_in_executor(self.decoders, self._inputs, upload)
        except UnreadableImageError as err:
            self.metrics.unreadable += 1
            return ImageAnswer(upload.name, [], str(err))
        answers = await loop.run_in_executor(self.runner, self._run, upload, inputs, top)
        self.metrics.count(answers)
        return ImageAnswer(upload.name, answers)

    def _inputs(self, upload: Upload) -> list[tuple[np.ndarray, float]]:
        """For each model its input, uint8 [1, crop, crop, 3], and the seconds that this took."""
        decoded: dict[int | None, tuple[Image.Image, float]] = {}  # by jpeg_side, with the seconds it took
        found: list[tuple[np.ndarray, float]] = []
        for place, served in enumerate(self.models):
            same = [i for i in range(place) if self.models[i].model.preprocessing == served.model.preprocessing]
            if same:
                found.append(found[same[0]])
                continue
            preprocessing = served.model.preprocessing
            side = preprocessing.jpeg_side
            begin = perf_counter()
            if side not in decoded:
                image = decode(io.BytesIO(upload.content), upload.name, side)
                decoded[side] = image, perf_counter() - begin
                begin = perf_counter()
            image, decoding = decoded[side]
            pixels = model_input(image, preprocessing)[None]
            found.append((pixels, decoding + perf_counter() - begin))
        return found

    def _run(self, upload: Upload, inputs: list[tuple[np.ndarray, float]], top: int) -> list[ModelAnswer]:
        answers = []
        beside = 0.0  # seconds that the models before took
        for served, (pixels, decoding) in zip(self.models, inputs, strict=True):
            model = served.model
            begin = perf_counter()
            probs = model.probs_of(pixels)[0]
            end = perf_counter()
            times = StageTimes(1000 * decoding, 1000 * (end - begin), 1000 * (end - upload.arrived - beside))
            beside += end - begin
            answers.append(model_answer(served.name, probs, model.classes, model.reject_threshold, top, times))
        return answers

    def close(self) -> None:
        """End the threads once what they do is done, and give back the models' memory."""
        self.decoders.shutdown(cancel_futures=True)
        for served in self.models:
            self.runner.submit(served.model.session.close)
        self.runner.shutdown()


class Room:
    """How many requests, and how many bytes of their bodies, are held at once."""

    def __init__(self, requests: int, largest_upload: int) -> None:
        self.requests, self.bytes = requests, BODIES * largest_upload

    @contextmanager
    def place(self, size: int) -> Iterator[Callable[[int], None]]:
        """Room for a request of at most `size` bytes; yields what tells its real size. Raises RefusedError (503)."""
        if self.requests < 1 or self.bytes < size:
            again = str(BUSY_SECONDS)
            raise RefusedError(503, "Too many requests wait.", f"Try again in {again} s.", {"Retry-After": again})
        held = size

        def resize(real: int) -> None:
            nonlocal held
            self.bytes += held - real
            held = real

        self.requests -= 1
        self.bytes -= held
        try:
            yield resize
        finally:
            self.requests += 1
            self.bytes += held

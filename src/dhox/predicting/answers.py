"""Predictions for the pictures of any sources, batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dhox.errors import DhoxError
from dhox.predicting.ahead import Prepared, batches
from dhox.predicting.live import Live
from dhox.predicting.picture import Picture, Prediction
from dhox.predicting.sources import Source
from dhox.predicting.video import Newest
from dhox.runtimes.predict import BATCH

if TYPE_CHECKING:
    from dhox.models.classifier import ExportedModel


def none_skipped(picture: Picture) -> bool:
    """Every picture is answered."""
    return False


def answers(
    model: ExportedModel, sources: list[Source], smooth: int = 1, skip: Callable[[Picture], bool] = none_skipped
) -> Iterator[list[Prediction]]:
    """The predictions of all sources in order, a batch at a time; cameras last, all together, a frame at a time.

    What cannot be read has a prediction that says why. `smooth`: the answer to a frame is the mean of the probabilities
    of the last so many frames that were taken. `skip`: pictures that are not answered.
    """
    average = Smoothing(smooth)
    recorded = [source for source in sources if source.feed is None]
    size = model.tensors.fixed_batch or BATCH
    for batch in batches(recorded, model.preprocessing, size, skip):
        yield average.of(predicted(model, batch, 1 if model.session.facts.device == "cpu" else size))
    feeds = [source.feed for source in sources if source.feed is not None]
    live = Live(model)
    for picture in Newest(feeds, model.cameras()) if feeds else ():
        yield average.of([live.answer(picture)])
        model.notes = live.notes()


def predicted(model: ExportedModel, batch: list[Prepared], least: int) -> list[Prediction]:
    """Run the model on what could be read, on at least so many images: a GPU prepares itself for every new number."""
    pixels = [one.pixels for one in batch if one.pixels is not None]
    probs = iter(model.probs_of(np.stack(pixels), least) if pixels else ())
    now = time.perf_counter()
    return [
        Prediction(
            one.picture, None if one.pixels is None else next(probs), one.error,
            None if one.picture.arrived is None else 1000 * (now - one.picture.arrived),
        )
        for one in batch
    ]  # fmt: skip


class Smoothing:
    """The mean of the probabilities of the last `frames` frames of each video or camera."""

    def __init__(self, frames: int) -> None:
        if frames < 1:
            raise DhoxError(f"smooth={frames} is no number of frames.", "Give 1 or more.")
        self.last: dict[str, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=frames))
        self.frames = frames

    def of(self, predictions: list[Prediction]) -> list[Prediction]:
        """The same predictions, those of frames smoothed."""
        return predictions if self.frames == 1 else [self.smoothed(one) for one in predictions]

    def smoothed(self, one: Prediction) -> Prediction:
        """One of them."""
        if one.probs is None or one.picture.frame is None:
            return one
        last = self.last[one.picture.name]
        last.append(one.probs)
        return Prediction(one.picture, np.stack(last).mean(0, dtype=np.float32), None, one.latency_ms)

"""What is timed: every model, runner and scope of a batch size, opened side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import numpy as np

from dhox.artefacts.bench import NotRun
from dhox.artefacts.bench_latency import Key, ScopeName
from dhox.bench.bench_models import BenchModel
from dhox.bench.camera_models import camera_call
from dhox.bench.rounds import Cell
from dhox.bench.runners.runner import open_runner
from dhox.data.items import Item, image_bytes, spread
from dhox.errors import UsageError, run_failure
from dhox.models.export_directory import Export
from dhox.runtimes.predict import pixels_of
from dhox.runtimes.runtime import Session

Pair = tuple[BenchModel, str]  # a model, and the runner asked for
MOST_IMAGES = 64  # encoded images that are kept in memory and timed in turn
SCOPES: dict[ScopeName, str] = {  # what lies between the two readings of the clock
    "device": "input on the device to output on the device, synchronised; nothing is copied",
    "e2e": "a preprocessed uint8 image batch in host memory to probabilities in host memory",
    "pipeline": "encoded images (JPEG, PNG ...) in host memory, decoded and preprocessed, to probabilities there",
    "camera": "raw frames of a camera in host memory to probabilities in host memory",
}


@dataclass(frozen=True)
class Opened:
    """A model that a runner opened, and the seconds that took."""

    model: BenchModel
    runner: Session
    open_s: float


@dataclass(frozen=True)
class TimedImages:
    """The encoded images that are timed in turn; `text`: which they are."""

    encoded: list[bytes]
    text: str

    def batch(self, size: int) -> list[bytes]:
        """`size` images: all of them in turn, repeated as needed."""
        return [self.encoded[i % len(self.encoded)] for i in range(size)]

    def pixels(self, model: BenchModel, size: int) -> np.ndarray:
        """The same as preprocessed pixels, uint8 [size, crop, crop, 3]."""
        once = pixels_of(self.encoded[:size], model.preprocessing)
        return once[np.arange(size) % len(once)]


def timed_images(models: list[BenchModel], items: list[Item]) -> TimedImages:
    """Test images, else the golden JPEG of an export. Raises UsageError where there is neither."""
    if items:
        chosen = spread(items, MOST_IMAGES)
        return TimedImages([image_bytes(item) for item in chosen], f"{len(chosen)} test images")
    for model in models:
        if model.export and model.manifest:
            golden = Export(model.export, model.manifest).golden()
            return TimedImages([golden.jpeg.tobytes()], "the golden JPEG of the export")
    raise UsageError("There is no image to time with.", "Give --data DIRECTORY with test images.")


@contextmanager
def opened(pairs: list[Pair], device: str, trust_engine: bool, not_run: list[NotRun]) -> Iterator[list[Opened]]:
    """Every pair opened; closed at the end. Those that fail go to `not_run`."""
    with ExitStack() as stack:
        found = []
        for model, name in pairs:
            start = time.perf_counter()
            try:
                runner = stack.enter_context(closing(open_runner(model, name, device, trust_engine)))
            except Exception as err:
                not_run.append(NotRun(what="model", model=model.name, runner=name, reason=reason_of(err)))
                continue
            found.append(Opened(model, runner, time.perf_counter() - start))
        yield found


def reason_of(err: Exception) -> str:
    """A runtime's words for its failure to open or run a model; a bug is raised again."""
    reason = run_failure(err)
    if reason is None:
        raise err
    return reason


def cells_of_batch(models: list[Opened], batch: int, images: TimedImages, not_run: list[NotRun]) -> list[Cell]:
    """One cell per opened model and scope, bound to a batch of images.

    A model that does not take the batch (a fixed batch size, too little memory) goes to `not_run`.
    """
    cells = []
    for one in models:
        name, runner = one.model.name, one.runner.name
        try:
            one.model.check_batch(batch)
            calls = _calls(one, batch, images)
        except Exception as err:
            not_run.append(NotRun(what="model", model=name, runner=runner, batch=batch, reason=reason_of(err)))
            continue
        cells += [Cell(Key(name, runner, batch, scope), call) for scope, call in calls.items()]
    return cells


def _calls(one: Opened, batch: int, images: TimedImages) -> dict[ScopeName, Callable[[], object]]:
    if one.model.camera is not None:
        return {"camera": camera_call(one.model, one.runner, batch)}
    return scope_calls(one.model, one.runner, images.pixels(one.model, batch), images.batch(batch))


def scope_calls(
    model: BenchModel, runner: Session, pixels: np.ndarray, encoded: list[bytes]
) -> dict[ScopeName, Callable[[], object]]:
    """One synchronised call per scope, for a batch given as preprocessed `pixels` uint8 [B, crop, crop, 3] and as
    the `encoded` images behind them. Binds the runner to the batch."""
    tensors = model.tensors
    runner.bind(tensors.graph_input(pixels))

    def e2e() -> np.ndarray:
        return tensors.probs(runner.infer(tensors.graph_input(pixels)))

    def pipeline() -> np.ndarray:
        return tensors.probs(runner.infer(tensors.graph_input(pixels_of(encoded, model.preprocessing))))

    return {"device": runner.run, "e2e": e2e, "pipeline": pipeline}

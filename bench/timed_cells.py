"""What is timed: every model, runner and scope of a batch size, opened side by side; and rows from the samples."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np

from dhox.bench.bench_models import Subject
from dhox.bench.contract_model import check_batch
from dhox.bench.latency_statistics import latency_row
from dhox.bench.rounds import Cell, Key, Samples
from dhox.bench.runners.runner import open_runner
from dhox.bench.scopes import scope_calls
from dhox.data.images import decode, model_input
from dhox.data.items import Item, image_bytes, spread
from dhox.errors import UsageError, run_failure
from dhox.models.export_directory import Export
from dhox.runtimes.runtime import Session

Pair = tuple[Subject, str]  # a model, and the runner asked for
MOST_IMAGES = 64  # encoded images that are kept in memory and timed in turn


def timed_images(subjects: list[Subject], items: list[Item]) -> tuple[str, list[bytes]]:
    """What is timed, in words and as encoded images: test images, else the golden JPEG of an export.

    Raises UsageError where there is neither.
    """
    if items:
        chosen = spread(items, MOST_IMAGES)
        return f"{len(chosen)} test images", [image_bytes(item) for item in chosen]
    for subject in subjects:
        if subject.export and subject.manifest:
            golden = Export(subject.export, subject.manifest).golden()
            return "the golden JPEG of the export", [golden.jpeg.tobytes()]
    raise UsageError("There is no image to time with.", "Give --data DIRECTORY with test images.")


@contextmanager
def opened(
    pairs: list[Pair], device: str, trust_engine: bool, not_run: list[str]
) -> Iterator[list[tuple[Subject, Session, float]]]:
    """Every pair opened, with the seconds that took; closed at the end. Those that fail are named in `not_run`."""
    with ExitStack() as stack:
        found = []
        for subject, name in pairs:
            start = time.perf_counter()
            try:
                runner = stack.enter_context(closing(open_runner(subject, name, device, trust_engine)))
            except Exception as err:
                not_run.append(f"{subject.name} by {name} not run: {words_of(err)}")
                continue
            found.append((subject, runner, time.perf_counter() - start))
        yield found


def words_of(err: Exception) -> str:
    """A runtime's words for its failure to open or run a model; a bug is raised again."""
    words = run_failure(err)
    if words is None:
        raise err
    return words


def cells_of_batch(
    opened_pairs: list[tuple[Subject, Session, float]], batch: int, encoded: list[bytes], not_run: list[str]
) -> list[Cell]:
    """One cell per opened model and scope, bound to a batch of `encoded` images, in turn and repeated as needed.

    A model that does not take the batch (a fixed batch size, too little memory) is named in `not_run`.
    """
    cells = []
    for subject, runner, _ in opened_pairs:
        pixels = batch_pixels(subject, encoded, batch)
        try:
            check_batch(subject, batch)
            calls = scope_calls(subject, runner, pixels, in_turn(encoded, batch))
        except Exception as err:
            not_run.append(f"{subject.name} by {runner.name} at batch {batch} not run: {words_of(err)}")
            continue
        cells += [Cell((subject.name, runner.name, batch, name), call) for name, call in calls.items()]
    return cells


def in_turn(encoded: list[bytes], batch: int) -> list[bytes]:
    """`batch` images: all of them in turn, repeated as needed."""
    return [encoded[i % len(encoded)] for i in range(batch)]


def batch_pixels(subject: Subject, encoded: list[bytes], batch: int) -> np.ndarray:
    """A batch of encoded images as preprocessed pixels, uint8 [batch, crop, crop, 3]."""
    images = [decode(io.BytesIO(content)) for content in encoded[:batch]]
    once = np.stack([model_input(image, subject.preprocessing) for image in images])
    return once[np.arange(batch) % len(once)]


def latency_rows(
    samples: dict[Key, Samples], emulated: dict[tuple[str, str], str], throttled: set[int]
) -> list[dict[str, Any]]:
    """`latency` of bench.json; cells that an interruption left with less than two rounds are left out.

    `emulated`: (subject, runner) -> why its time says nothing; `throttled`: the batch sizes during whose rounds the
    device was; models of one batch size take turns, so it is theirs in common.
    """
    rows = []
    for (subject, runner, batch, scope), taken in samples.items():
        if len(taken.rounds) < 2:
            continue
        statistics = latency_row(taken.rounds, batch, np.array(taken.started_s))
        if not taken.warm_up["steady"]:
            statistics["flags"].append("not steady")
        if batch in throttled:
            statistics["flags"].append("throttled")
        rows.append(
            {
                "subject": subject, "runner": runner, "batch": batch, "scope": scope,
                "emulated": emulated.get((subject, runner)), "samples": samples_key((subject, runner, batch, scope)),
                **statistics, "warm_up": taken.warm_up,
            }
        )  # fmt: skip
    return rows


def samples_key(key: tuple[str | int, ...]) -> str:
    """The name of a cell's raw samples in samples.npz; no two cells share one, and none has the slash of a folder."""
    return "_".join(str(part) for part in key).replace("%", "%25").replace("/", "%2F")


def sample_arrays(samples: dict[Key, Samples]) -> dict[str, np.ndarray]:
    """samples.npz: nanoseconds of every timed call, the calls per round, and when each round began in seconds."""
    arrays = {}
    for key, taken in samples.items():
        if len(taken.rounds) >= 2:
            name = samples_key(key)
            arrays[name] = np.concatenate(taken.rounds)
            arrays[f"{name}_rounds"] = np.array([len(times) for times in taken.rounds])
            arrays[f"{name}_started_s"] = np.array(taken.started_s)
    return arrays

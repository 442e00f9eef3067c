"""--resume: whether a training that was interrupted may go on, and what tells it from another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, partial_directory, settle, sha256
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.run import Run, RunState, Settings, read_run
from dhox.console import say
from dhox.distill.options import DistillOptions
from dhox.distill.training.checkpoint import CHECKPOINT_FILE
from dhox.distill.training.train import DivergedError
from dhox.errors import DhoxError
from dhox.options.declare import settings as settings_of

CURES = ("learning_rate", "precision")  # what may change when a training that diverged goes on


def earlier_state(out: Path, settings: Settings) -> Run | None:
    """What --resume finds: run.json of the finished run, or None where training starts or goes on.

    An option that run.json does not name had its default. Raises DhoxError where the interrupted or finished training
    had other settings.
    """
    settle(out, RUN_FILE, RUN_SCHEMA)
    partial = partial_directory(out)
    place = partial if (partial / RUN_FILE).exists() else out
    if not (place / RUN_FILE).exists():
        return None
    state = read_record(place / RUN_FILE, RunState)
    before = settings if state.settings is None else settings_of(DistillOptions()) | state.settings
    free = CURES if state.status == "diverged" else ()
    other = [
        f"{name} {before.get(name)!r} there, {value!r} here"
        for name, value in settings.items()
        if before.get(name) != value and name not in free
    ]
    if other:
        raise DhoxError(
            f"--resume: {place} was started with other settings ({'; '.join(other)}).",
            "Give the same, or start again without --resume.",
        )
    if place == partial:
        return None
    say(f"{out} is complete; nothing is left to resume.")
    return read_run(out)


def may_resume(out: Path, settings: Settings) -> bool:
    """Whether a checkpoint of this very training waits for --resume."""
    try:
        return (partial_directory(out) / CHECKPOINT_FILE).is_file() and earlier_state(out, settings) is None
    except DhoxError:
        return False


def identity_of(keys: np.ndarray, numbers: list[int], files: list[Path]) -> str:
    """A hash of everything besides the options that decides what a training step sees; `keys`: of its images."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=16)
    digest.update(keys.tobytes())
    for path in files:
        digest.update(sha256(path).encode())
    return digest.hexdigest()


@contextmanager
def on_divergence(run: Path, settings: Settings, *, writes: bool) -> Iterator[None]:
    """Note in run.json that training diverged, so that --resume takes another learning rate.

    `writes`: whether this process is the one that writes.
    """
    try:
        yield
    except DivergedError:
        if writes:
            write_record(run / RUN_FILE, RunState(status="diverged", settings=settings))
        raise

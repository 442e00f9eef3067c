"""Does a training that was stopped and resumed end where an unbroken one does? bf16, compiled where it can be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

import dhox
from dhox.artefacts.arrays import read_npz
from dhox.demo.data import write_image_folder
from dhox.distill.training import train
from proof.record import Aim, Row


def rows(tiny: bool) -> Iterator[Row]:
    """Largest difference of the KD logits on validation: of two unbroken trainings, and of a resumed one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_image_folder(Path("data"))
        unbroken, again = train_once("unbroken", tiny), train_once("again", tiny)
        with mock.patch.object(train, "save_checkpoint", stopping_after(1, train.save_checkpoint)):
            try:
                train_once("resumed", tiny)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("the training was not stopped")
        resumed = train_once("resumed", tiny, resume=True)
    spread = float(unbroken.std())
    for what, other in (("a second unbroken training", again), ("a resumed training", resumed)):
        difference = float(np.abs(unbroken - other).max())
        yield Row(subject=what, what="largest difference of logits / their spread", value=difference / spread)
        same = float((unbroken.argmax(1) == other.argmax(1)).mean())
        yield Row(subject=what, what="same answer on validation", value=100 * same, unit="%", aim=Aim("at least", 95))


def train_once(name: str, tiny: bool, resume: bool = False) -> np.ndarray:
    """The KD logits on validation."""
    student, size, epochs, device = ("test_resnet", 28, 2, "cpu") if tiny else ("resnet10t", 32, 4, "cuda")
    dhox.distill(
        Path("data"), Path(name), teacher=f"local-dir:{Path('data/teacher').absolute()}", student=student,
        student_weights="none", image_size=size, epochs=epochs, shots=16, views=1, batch_labelled=32,
        batch_unlabelled=96, device=device, cache=Path("cache"), resume=resume,
    )  # fmt: skip
    return read_npz(Path(name) / "val.npz")["kd_logits"]


def stopping_after(epochs: int, save: object) -> object:
    """save_checkpoint, and Ctrl-C after so many epochs."""
    written: list[int] = []

    def save_and_stop(*args: object) -> None:
        save(*args)  # type: ignore[operator]
        written.append(1)
        if len(written) == epochs:
            raise KeyboardInterrupt

    return save_and_stop

"""What a written graph answers to altered copies of labelled validation images (no torch)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dhox.artefacts.rehearsal import FEWEST_REHEARSED, UNALTERED, Rehearsal
from dhox.data.dataset import class_numbers, spread
from dhox.data.items import Item
from dhox.errors import DhoxError
from dhox.export.check_images import load_pixels
from dhox.export.rehearsal.alterations import REHEARSED, Change
from dhox.progress import progress_bar
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

MOST_IMAGES = 500  # of each alteration


def check_enough_labels(run: Path, n: int) -> None:
    """Raise DhoxError where a run has fewer labelled validation images than a rehearsal needs."""
    if n < FEWEST_REHEARSED:
        raise DhoxError(
            f"{run} has {n} validation images with labels, and --rehearse-drift needs at least {FEWEST_REHEARSED}.",
            "Give DATA a val split or more labels and train again, or leave the option out.",
        )


def rehearse(fp32: bytes, tensors: Tensors, validation: list[Item], classes: list[str]) -> Rehearsal:
    """At most MOST_IMAGES labelled validation images as they are, then altered in every way of REHEARSED, as the fp32
    graph answers them. Raises DhoxError for an image that cannot be read."""
    items, session = spread(validation, MOST_IMAGES), OnnxSession(fp32)
    pixels = load_pixels(items, tensors.preprocessing, "Reading validation images")
    ways = [(change, strength) for change, strengths in REHEARSED for strength in strengths]
    answers = [top(predict(session, tensors, pixels))]
    with progress_bar("Answering altered validation images", len(ways) * len(pixels)) as advance:
        for number, (change, strength) in enumerate(ways):
            answers.append(top(predict(session, tensors, altered(pixels, change, strength, number))))
            advance(len(pixels))
    return Rehearsal(
        kinds=np.array([UNALTERED, *[change.__name__ for change, _ in ways]], np.str_),
        strengths=np.array([0.0, *[strength for _, strength in ways]]),
        labels=class_numbers(items, classes),
        confidence=np.stack([confidence for confidence, _ in answers]),
        predicted=np.stack([predicted for _, predicted in answers]),
    )


def altered(pixels: np.ndarray, change: Change, strength: float, number: int) -> np.ndarray:
    """Images uint8 [N, S, S, 3], altered in one way, the `number`-th; the same ones each time."""
    return np.stack([
        np.asarray(change(Image.fromarray(one), strength, np.random.default_rng([number, place])))
        for place, one in enumerate(pixels)
    ])  # fmt: skip


def top(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The top probability, float32 [N], and its class, int32 [N], of probabilities [N, C]."""
    return probs.max(1).astype(np.float32), probs.argmax(1).astype(np.int32)

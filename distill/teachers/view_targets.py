"""What the teacher says about a training view: from the cache, from files computed elsewhere, or online."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from dhox.data.dataset import Item, read_image
from dhox.distill.images.pixels import centre_and_spread, to_model
from dhox.distill.images.shards import Rows
from dhox.distill.images.student_inputs import Boxes
from dhox.distill.images.views import render
from dhox.distill.teachers.teacher import Teacher
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ViewTargets:
    """`of_views`: (image numbers, view numbers) [B] to a host tensor; `logits`: that tensor on the device to [B, C]."""

    of_views: Callable[[np.ndarray, np.ndarray], torch.Tensor]
    logits: Logits


def cached_targets(rows: Rows, logits: Logits) -> ViewTargets:
    """From cached rows: embeddings [views, D] per image (or logits [views, C]); fewer views stand for several."""

    def of_views(numbers: np.ndarray, views: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows.take_part(numbers, views % rows.row_shape[0]))

    return ViewTargets(of_views, lambda z: logits(z.float()))


def online_targets(teacher: Teacher, items: list[Item], boxes: Boxes, logits: Logits) -> ViewTargets:
    """From a forward of the teacher at every step, on a crop of its own size (for comparison: it is slow)."""

    centre_and_spread(teacher.mean, teacher.std, teacher.device)  # copied now, not in the first step

    def of_views(numbers: np.ndarray, views: np.ndarray) -> torch.Tensor:
        drawn = zip(numbers.tolist(), boxes.originals(numbers, views), strict=True)
        crops = [render(read_image(items[i]), box, teacher.size, teacher.interpolation) for i, box in drawn]
        return torch.from_numpy(np.stack(crops))

    def of_pixels(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return logits(teacher.encode_images(to_model(pixels, teacher.mean, teacher.std)).clone())

    return ViewTargets(of_views, of_pixels)


def cosine_logits(text: torch.Tensor, scale: float) -> Logits:
    """Teacher logits scale z W^T of normalised embeddings z [B, D]; `text` W [C, D] on the same device."""
    return lambda z: scale * z @ text.T


def read_rows(path: Path, n: int, what: str) -> np.ndarray:
    """An array of one row per row of the manifest, [n, X] or [n, views, X], as [n, views, X] memory-mapped.

    `.npy`, or `.safetensors` with one tensor. Raises DhoxError for another number of rows, and for what is no array.
    """
    try:
        if path.suffix == ".safetensors":
            (array,) = load_file(regular(path)).values()
        else:
            array = np.load(regular(path), mmap_mode="r", allow_pickle=False)
    except Exception as err:  # safetensors and numpy raise many types on damaged files
        raise DhoxError(
            f"{path} cannot be read as {what} ({err}).", "Give a .npy or a .safetensors with one array."
        ) from err
    if not isinstance(array, np.ndarray):
        raise DhoxError(f"{path} holds several arrays.", "Give a .npy or a .safetensors with one array.")
    if array.ndim not in {2, 3} or array.dtype.kind != "f":
        raise DhoxError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}.",
            f"{what.capitalize()} are floating-point, [images, width] or [images, views, width].",
        )
    if len(array) != n:
        raise DhoxError(
            f"{path} has {len(array)} rows, and {n} are needed.",
            "Compute one row per manifest row (or class), in order.",
        )
    return array if array.ndim == 3 else array[:, None]


def rows_of_items(array: np.ndarray, items: list[Item]) -> Rows:
    """The rows of these images of a manifest, out of an array aligned to it."""
    places = np.array([item.row for item in items], np.int64)
    return Rows(lambda _: array, np.zeros(len(items), np.int64), places, array.shape[1:], array.dtype)

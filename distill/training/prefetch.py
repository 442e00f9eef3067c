"""Host batches of a training, prepared ahead by threads while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from dhox.data.dataset import Item, read_image
from dhox.distill.images.packed import to_packed_boxes
from dhox.distill.images.shards import Rows
from dhox.distill.images.views import render, view_boxes, view_keys
from dhox.distill.training.batch_sampler import Order

T = TypeVar("T")
AHEAD = 4  # finished batches that wait, beyond the one that each thread works on


@dataclass(frozen=True)
class Batch:
    """One step's inputs on the host, pinned where the device is a GPU.

    `numbers`: int64 [B], labelled images first. `pixels`: uint8 [B, side, side, 3] (None where the images lie on the
    device). `boxes`: float32 [B, 5] in packed pixels (None where pixels are finished views). `signal`: what the teacher
    says about these views: embeddings [B, D] or logits [B, C] (None without a teacher), or its own pixels
    uint8 [B, size, size, 3] where it runs online.
    """

    numbers: torch.Tensor
    pixels: torch.Tensor | None
    boxes: torch.Tensor | None
    signal: torch.Tensor | None


class Pixels(Protocol):
    """Where the student's pixels come from."""

    def batch(
        self, numbers: np.ndarray, views: np.ndarray, pin: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(pixels, boxes) of a Batch."""


class Boxes:
    """View boxes of the training images by number."""

    def __init__(self, items: list[Item], sizes: np.ndarray, view_seed: int) -> None:
        self.keys, self.sizes = view_keys([item.name for item in items], view_seed), sizes

    def originals(self, numbers: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Boxes int [B, 5] in pixels of the originals."""
        return view_boxes(self.keys[numbers], views, self.sizes[numbers])

    def packed(self, numbers: np.ndarray, views: np.ndarray, side: int) -> np.ndarray:
        """Boxes float32 [B, 5] in packed pixels."""
        return to_packed_boxes(self.originals(numbers, views), self.sizes[numbers], side)


class PackedPixels:
    """Pixels from packed images in host memory; `on_device`: they lie on the device, so only boxes travel."""

    def __init__(self, rows: Rows, boxes: Boxes, on_device: bool) -> None:
        self.rows, self.boxes, self.on_device = rows, boxes, on_device

    def batch(
        self, numbers: np.ndarray, views: np.ndarray, pin: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """See Pixels."""
        side = self.rows.row_shape[0]
        boxes = torch.from_numpy(self.boxes.packed(numbers, views, side))
        if self.on_device:
            return None, boxes
        pixels = torch.empty((len(numbers), *self.rows.row_shape), dtype=torch.uint8, pin_memory=pin)
        self.rows.take(numbers, pixels.numpy())
        return pixels, boxes


class DecodedPixels:
    """Pixels decoded and cropped from the image files at every use: for sets that no disk can hold packed."""

    def __init__(self, items: list[Item], boxes: Boxes, size: int, interpolation: str) -> None:
        self.items, self.boxes, self.size, self.interpolation = items, boxes, size, interpolation

    def batch(
        self, numbers: np.ndarray, views: np.ndarray, pin: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """See Pixels; the pixels are finished views of the originals."""
        pixels = torch.empty((len(numbers), self.size, self.size, 3), dtype=torch.uint8, pin_memory=pin)
        array = pixels.numpy()
        for i, (number, box) in enumerate(zip(numbers.tolist(), self.boxes.originals(numbers, views), strict=True)):
            array[i] = render(read_image(self.items[number]), box, self.size, self.interpolation)
        return pixels, None


def prepared(
    order: Order,
    steps: range,
    pixels: Pixels,
    signal: Callable[[np.ndarray, np.ndarray], torch.Tensor] | None,
    *,
    threads: int,
    pin: bool,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The batches of `steps` in order, made by `threads` threads ahead of their use."""

    def make(step: int) -> Batch:
        numbers, views = order.batch(step, rank, world)
        drawn, boxes = pixels.batch(numbers, views, pin)
        small = [torch.from_numpy(numbers), boxes, signal(numbers, views) if signal else None]
        if pin:  # a copy from pageable memory would wait for the device
            small = [None if tensor is None else tensor.pin_memory() for tensor in small]
        assert small[0] is not None
        return Batch(small[0], drawn, small[1], small[2])

    return ahead(make, steps, threads)


def ahead(make: Callable[[int], T], steps: range, threads: int) -> Iterator[T]:
    """make(step) for every step in order, computed ahead by threads."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) >= AHEAD + threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

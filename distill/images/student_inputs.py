"""The student's training images: packed in host memory or on the device, or decoded at every use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import Item, read_image
from dhox.distill.images.packed import packed_rows, packed_side, to_packed_boxes
from dhox.distill.images.pixels import centre_and_spread, to_model
from dhox.distill.images.resample import model_views
from dhox.distill.images.shards import Rows
from dhox.distill.images.views import render, view_boxes, view_keys

DEVICE_SHARE = 0.5  # of a GPU's free memory that packed images may take


class Boxes:
    """View boxes of training images by number. `sizes`: width and height of each image, int [N, 2]."""

    def __init__(self, items: list[Item], sizes: np.ndarray, view_seed: int) -> None:
        self.keys, self.sizes = view_keys([item.name for item in items], view_seed), sizes

    def originals(self, numbers: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Boxes int [B, 5] in pixels of the originals."""
        return view_boxes(self.keys[numbers], views, self.sizes[numbers])

    def packed(self, numbers: np.ndarray, views: np.ndarray, side: int) -> np.ndarray:
        """Boxes float32 [B, 5] in packed pixels."""
        return to_packed_boxes(self.originals(numbers, views), self.sizes[numbers], side)


@dataclass(frozen=True)
class TrainingImages:
    """The images that a student is trained on, labelled ones first.

    `labels`: int64 [N_L]; `keys` [N]: under which caches keep them (see row_keys).
    """

    items: list[Item]
    labels: np.ndarray
    keys: np.ndarray
    boxes: Boxes

    @property
    def n_unlabelled(self) -> int:
        """Unlabelled images among them."""
        return len(self.items) - len(self.labels)


@dataclass(frozen=True)
class HostViews:
    """Views of a batch on the host: finished `pixels` uint8 [B, size, size, 3], or boxes to be cut on the device.

    `boxes`: float32 [B, 5] in packed pixels; then `pixels` are packed images uint8 [B, side, side, 3], or None where
    those lie on the device.
    """

    pixels: torch.Tensor | None
    boxes: torch.Tensor | None


class PackedInputs:
    """Views cut on the device out of packed images, which lie there too where they fit (`resident`).

    `side`: of the packed images in pixels.
    """

    def __init__(
        self, rows: Rows, resident: torch.Tensor | None, boxes: Boxes, preprocessing: Preprocessing, fabric: Fabric,
        *, compiled: bool,
    ) -> None:  # fmt: skip
        self.rows, self.resident, self.boxes, self.fabric = rows, resident, boxes, fabric
        self.side = rows.row_shape[0]
        self.size, self.interpolation = preprocessing.crop, preprocessing.interpolation
        self.cut = torch.compile(model_views) if compiled else model_views
        both = centre_and_spread(preprocessing.mean, preprocessing.std, fabric.device)
        self.centre, self.spread = (values.view(1, 3, 1, 1) for values in both)

    def on_host(self, numbers: np.ndarray, views: np.ndarray, pin: bool) -> HostViews:
        """The views of a batch; `pin`: in pinned memory."""
        boxes = torch.from_numpy(self.boxes.packed(numbers, views, self.side))
        if pin:  # a copy from pageable memory would wait for the device
            boxes = boxes.pin_memory()
        if self.resident is not None:
            return HostViews(None, boxes)
        pixels = torch.empty((len(numbers), *self.rows.row_shape), dtype=torch.uint8, pin_memory=pin)
        self.rows.take(numbers, pixels.numpy())
        return HostViews(pixels, boxes)

    def on_device(self, numbers: torch.Tensor, views: HostViews) -> torch.Tensor:
        """The same as normalised images [B, 3, size, size] on the device."""
        assert views.boxes is not None
        on_device = self.fabric.to_device
        pixels = on_device(views.pixels) if self.resident is None else self.resident[on_device(numbers)]
        return self.cut(pixels, on_device(views.boxes), self.size, self.interpolation, self.centre, self.spread)


class DecodedInputs:
    """Views decoded and cropped from the image files at every use: for sets that no disk can hold packed."""

    side = 0

    def __init__(self, items: list[Item], boxes: Boxes, preprocessing: Preprocessing, fabric: Fabric) -> None:
        self.items, self.boxes, self.preprocessing, self.fabric = items, boxes, preprocessing, fabric
        centre_and_spread(preprocessing.mean, preprocessing.std, fabric.device)  # copied now, not in the first step

    def on_host(self, numbers: np.ndarray, views: np.ndarray, pin: bool) -> HostViews:
        """See PackedInputs."""
        size, jpeg_side = self.preprocessing.crop, self.preprocessing.jpeg_side
        pixels = torch.empty((len(numbers), size, size, 3), dtype=torch.uint8, pin_memory=pin)
        array = pixels.numpy()
        for i, (number, box) in enumerate(zip(numbers.tolist(), self.boxes.originals(numbers, views), strict=True)):
            image = read_image(self.items[number], jpeg_side)
            scaled = to_decoded_box(box, self.boxes.sizes[number], image.size)
            array[i] = render(image, scaled, size, self.preprocessing.interpolation)
        return HostViews(pixels, None)

    def on_device(self, numbers: torch.Tensor, views: HostViews) -> torch.Tensor:
        """See PackedInputs."""
        pixels = self.fabric.to_device(views.pixels)
        return to_model(pixels, self.preprocessing.mean, self.preprocessing.std)


def to_decoded_box(box: np.ndarray, size: np.ndarray, decoded: tuple[int, int]) -> np.ndarray:
    """A view box int [5] in pixels of the original (`size`: its width and height, int [2]) to the nearest pixels of the
    image as it was decoded, the same where that was in full."""
    factors = np.array(decoded) / size
    begin, end = np.rint(box[:2] * factors), np.rint((box[:2] + box[2:4]) * factors)
    return np.concatenate([begin, end - begin, box[4:]]).astype(np.int64)


StudentInputs = PackedInputs | DecodedInputs  # where the student's images come from


def student_inputs(
    images: TrainingImages, preprocessing: Preprocessing, packed_size: int | None, root: Path, fabric: Fabric,
    *, compiled: bool,
) -> StudentInputs:  # fmt: skip
    """The training images, packed below `root` to a side in pixels (None: what the student needs; 0: not packed)."""
    side = packed_side(preprocessing.crop, images.boxes.sizes) if packed_size is None else packed_size
    if not side:
        return DecodedInputs(images.items, images.boxes, preprocessing, fabric)
    rows = packed_rows(fabric, root, images.items, images.keys, side, preprocessing.jpeg_side)
    return PackedInputs(rows, resident_images(rows, fabric), images.boxes, preprocessing, fabric, compiled=compiled)


def resident_images(rows: Rows, fabric: Fabric) -> torch.Tensor | None:
    """All packed images on the device, uint8 [N, side, side, 3]; None on a CPU and where they do not fit."""
    if fabric.device.type != "cuda":
        return None
    total = len(rows) * int(np.prod(rows.row_shape))
    if total > DEVICE_SHARE * torch.cuda.mem_get_info(fabric.device)[0]:
        return None
    images = torch.empty((len(rows), *rows.row_shape), dtype=torch.uint8, device=fabric.device)
    for start in range(0, len(rows), 1024):
        numbers = np.arange(start, min(start + 1024, len(rows)))
        chunk = np.empty((len(numbers), *rows.row_shape), np.uint8)
        images[start : start + len(numbers)] = torch.from_numpy(rows.take(numbers, chunk)).to(fabric.device)
    return images

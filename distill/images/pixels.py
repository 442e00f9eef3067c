"""Image files and pixels as torch takes them, the same for teacher and student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from PIL import Image
from torch.utils.data import Dataset

from dhox.data.dataset import Item, read_image


class WholeImages(Dataset[torch.Tensor]):
    """Whole images through a transform: RGB image to tensor. `jpeg_side`: see dhox.data.images.decode."""

    def __init__(
        self, items: list[Item], transform: Callable[[Image.Image], torch.Tensor], jpeg_side: int | None = None
    ) -> None:
        self.items, self.transform, self.jpeg_side = items, transform, jpeg_side

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_image(self.items[index], self.jpeg_side))


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """One number per channel, [3], on a device; kept, since every copy from the host would wait for the device."""
    return torch.tensor(values, device=device)


def centre_and_spread(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, each [3], on a device. Asked for before a training, no step has to copy them."""
    return channels(tuple(mean), device), channels(tuple(std), device)


def to_model(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B, H, W, 3] to normalised float [B, 3, H, W] on the same device."""
    centre, spread = centre_and_spread(mean, std, pixels.device)
    return ((pixels.float() / 255 - centre) / spread).permute(0, 3, 1, 2).contiguous()

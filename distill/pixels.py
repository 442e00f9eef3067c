"""Image files and pixels as torch takes them, the same for teacher and student."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch.utils.data import Dataset

from dhox.dataset import Item, read_image


class WholeImages(Dataset[torch.Tensor]):
    """Whole images through a transform: RGB image to tensor."""

    def __init__(self, items: list[Item], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_image(self.items[index]))


def to_model(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B, H, W, 3] to normalised float [B, 3, H, W] on the same device."""
    centre, spread = (torch.tensor(values, device=pixels.device) for values in (mean, std))
    return ((pixels.float() / 255 - centre) / spread).permute(0, 3, 1, 2).contiguous()

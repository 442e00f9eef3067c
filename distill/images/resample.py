"""Views of packed images in batches on the training device: crop, antialiased resize, flip, normalise.

The resize is separable: one weight matrix per sample and axis, so a batch is two batched matrix products. The weights
are those of Pillow and of torchvision's antialiased resize of the same crop (a plain grid_sample aliases).
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def _triangle(x: torch.Tensor) -> torch.Tensor:
    """The bilinear kernel."""
    return (1 - x.abs()).clamp(min=0)


def cubic(x: torch.Tensor) -> torch.Tensor:
    """The bicubic kernel with a = -0.5 (Keys 1981), as Pillow's."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def lanczos(x: torch.Tensor) -> torch.Tensor:
    """The Lanczos kernel of three lobes."""
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


# A student that is evaluated with nearest pixels is trained on bilinear views: nearest cannot be antialiased.
KERNELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nearest": _triangle, "bilinear": _triangle, "bicubic": cubic, "lanczos": lanczos,
}  # fmt: skip


def axis_weights(
    start: torch.Tensor, length: torch.Tensor, flip: torch.Tensor, side: int, size: int, interpolation: str
) -> torch.Tensor:
    """Weights [B, size, side] that resample the stretch [start, start + length) of `side` pixels to `size` pixels.

    `start`, `length`: float [B] in pixels; `flip`: bool [B], reverses the output. Every row sums to 1 and reads no
    pixel outside the stretch, as if it had been cropped first.
    """
    scale = (length / size)[:, None, None]
    output = torch.arange(size, device=start.device, dtype=torch.float32)
    order = torch.where(flip[:, None], size - 1 - output, output)
    centre = start[:, None, None] + (order[:, :, None] + 0.5) * scale
    pixel = torch.arange(side, device=start.device, dtype=torch.float32)
    weights = KERNELS[interpolation]((pixel + 0.5 - centre) / scale.clamp(min=1))
    first, end = start.floor()[:, None, None], (start + length).ceil()[:, None, None]
    weights = torch.where((pixel >= first) & (pixel < end), weights, torch.zeros_like(weights))
    return weights / weights.sum(-1, keepdim=True)


def resample(pixels: torch.Tensor, boxes: torch.Tensor, size: int, interpolation: str) -> torch.Tensor:
    """The views `boxes` of packed images, in [0, 255], [B, 3, size, size].

    `pixels`: uint8 [B, side, side, 3]; `boxes`: float [B, 5], (left, top, width, height, flip) in packed pixels. Equal
    to torchvision's antialiased crop-and-resize within 1e-3 of the range by float32 products on the CPU; on a GPU, with
    float16 weights and float32 sums, within 1e-3 for bilinear and 2e-3 for bicubic and Lanczos.
    """
    b, side = pixels.shape[:2]
    left, top, width, height = (boxes[:, i] for i in range(4))
    flip = boxes[:, 4] > 0
    dtype = torch.float32 if pixels.device.type == "cpu" else torch.float16
    rows = axis_weights(top, height, torch.zeros_like(flip), side, size, interpolation).to(dtype)
    columns = axis_weights(left, width, flip, side, size, interpolation).to(dtype)
    with torch.autocast(pixels.device.type, enabled=False):
        high = torch.bmm(rows, pixels.to(dtype).view(b, side, side * 3))  # [B, size, side * 3]
        turned = high.view(b, size, side, 3).transpose(1, 2).reshape(b, side, size * 3)
        wide = torch.bmm(columns, turned).view(b, size, size, 3)  # [B, x, y, 3]
    return wide.permute(0, 3, 2, 1).clamp(0, 255)


def model_views(
    pixels: torch.Tensor, boxes: torch.Tensor, size: int, interpolation: str, centre: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """The views `boxes` of packed images (see `resample`), normalised: float32 [B, 3, size, size], channels last.

    `centre`, `spread`: mean and standard deviation [1, 3, 1, 1] of pixels in [0, 1], on the same device.
    """
    views = resample(pixels, boxes, size, interpolation).float()
    return ((views / 255 - centre) / spread).contiguous(memory_format=torch.channels_last)

"""Which sizes of image a timm student takes: asked of the student itself, before any image is read."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from dhox.errors import DhoxError, first_line

STEP = 32  # pixels: what most students want a multiple of
NEAR = 4  # steps on either side that are tried


def create_timm(name: str, image_size: int | None, **options: Any) -> nn.Module:
    """A timm model for images of a size in pixels; convolutional ones take any, and know no img_size."""
    try:
        sized = {} if image_size is None else {"img_size": image_size}
        return timm.create_model(name, num_classes=0, **sized, **options)
    except TypeError:
        return timm.create_model(name, num_classes=0, **options)


def own_size(name: str) -> int | None:
    """The pixels that a timm student takes where nobody says others; None where only the student itself can tell."""
    found = timm.get_pretrained_cfg(name)
    return None if found is None else found.input_size[-1]


def size_problem(name: str, image_size: int) -> str | None:
    """Why a student does not take images of this size, or None: it is built with random weights and runs once."""
    try:
        backbone = create_timm(name, image_size).eval()
        with torch.no_grad():
            backbone(torch.zeros(1, 3, image_size, image_size))
    except Exception as err:  # asserts, shape errors and others, of timm and of torch
        return first_line(err).rstrip(".")
    return None


def check_image_size(name: str, image_size: int) -> None:
    """Raise DhoxError where a student does not take images of this size, with sizes near it that it takes."""
    reason = size_problem(name, image_size)
    if reason is None:
        return
    below = image_size // STEP * STEP
    near = [below - k * STEP for k in range(NEAR)], [below + (k + 1) * STEP for k in range(NEAR)]
    fits = [next((size for size in side if size > 0 and size_problem(name, size) is None), None) for side in near]
    sizes = sorted({size for size in (*fits, own_size(name)) if size is not None and size != image_size})
    raise DhoxError(
        f"The student {name} does not take images of {image_size} pixels ({reason}).",
        f"These fit: {', '.join(f'--image-size {size}' for size in sizes)}.",
    )

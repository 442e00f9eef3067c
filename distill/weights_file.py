"""Weights that others made: that their values are numbers, and why a file of them cannot be loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from dhox.data.dataset import shorten
from dhox.errors import DhoxError


def check_finite(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise DhoxError, naming tensors, where one holds NaN or an infinity. `source`: what holds them."""
    bad = [name for name, part in tensors.items() if part.is_floating_point() and not part.isfinite().all()]
    if bad:
        raise DhoxError(
            f"{source} holds values that are not finite, in {len(bad)} of {len(tensors)} tensors: {shorten(bad, 3)}.",
            "It is damaged, or its training diverged: use other weights.",
        )


def reason_of(err: Exception) -> str:
    """Why a library could not load a file, on one line.

    Where torch refused a pickle because it could run code: in our words, since torch's end in advice to run it.
    """
    text = " ".join(str(err).split())
    if "weights_only" not in text and "Weights only" not in text:
        return text[:400] or type(err).__name__
    asked = re.search(r"GLOBAL ([\w.]+)", text)
    return f"it is a pickle of more than tensors, {f'which asks for {asked[1]}, ' if asked else ''}and could run code"

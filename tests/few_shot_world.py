"""Embeddings whose labels know more than the class texts, for few-shot teachers."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

C, D = 4, 16


def world(n: int, views: int, seed: int, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(views [n, views, D], labels [n], text [C, D]): classes are directions, and the text points half beside them."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.eye(D)[:C]
    text = normalize(directions + torch.eye(D)[4 : 4 + C].flip(0) + 0.6 * directions.roll(1, 0), dim=-1)
    labels = torch.arange(n) % C
    own = directions[labels][:, None] + noise * torch.randn(n, 1, D, generator=generator) / D**0.5
    return normalize(own + 0.2 * torch.randn(n, views, D, generator=generator) / D**0.5, dim=-1), labels, text

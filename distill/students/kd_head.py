"""The KD head in its three kinds: linear, and the two cosine heads of CLIP students."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

KD_HEADS = ("linear", "cosine-paper", "cosine-code")
SCALE = 100.0  # s, the inverse of the teacher's temperature zeta = 0.01 (arXiv 2505.07675)
SMALLEST_NORM = 1e-6


def norm(z: torch.Tensor) -> torch.Tensor:
    """|z| along the last axis, kept as an axis of 1; at least SMALLEST_NORM."""
    return torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


def unit(z: torch.Tensor) -> torch.Tensor:
    """z / |z| along the last axis."""
    return z / norm(z)


class CosinePaperHead(nn.Module):
    """s (W/|W|)(z/|z|): cosines with the rows of W, eq. 10 of arXiv 2505.07675. z [B, d] to logits [B, C]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Linear(features, classes, bias=False).weight

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits of features."""
        return SCALE * F.linear(unit(z), unit(self.weight))


class CosineCodeHead(nn.Module):
    """s (W z/|z| + b), as the authors' code has it: W keeps its norm, the bias is scaled too. [B, d] to [B, C]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        layer = nn.Linear(features, classes)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits of features."""
        return SCALE * F.linear(unit(z), self.weight, self.bias)


def create_kd_head(kind: str, features: int, classes: int) -> nn.Module:
    """A KD head of one of KD_HEADS with torch's initialisation."""
    if kind == "cosine-paper":
        return CosinePaperHead(features, classes)
    if kind == "cosine-code":
        return CosineCodeHead(features, classes)
    return nn.Linear(features, classes)


def plain_parameters(kind: str, head: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(V [C, d], c [C]): the head's logits are V u + c, where u = z for the linear kind and u = z/|z| for the others.

    s and the normalisation of W are inside V and c. The cosine kinds come without the offset that all classes share:
    softmax does not see it, but rounding does. (Text embeddings point much the same way, so it is most of the logits;
    with CLIP-like norms it made fp16 differ by 0.007 in a probability, and by 0.002 without it.)
    """
    if kind == "linear":
        return head.weight, head.bias  # type: ignore[return-value]
    if kind == "cosine-paper":
        weight = SCALE * unit(head.weight)  # type: ignore[arg-type]
        bias = weight.new_zeros(len(weight))
    else:
        weight, bias = SCALE * head.weight, SCALE * head.bias  # type: ignore[operator, assignment]
    return weight - weight.mean(0), bias - bias.mean()

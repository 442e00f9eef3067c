"""Gradient conflict between the two losses on the shared backbone: the DHO paper's explanation (figure 3)."""

from __future__ import annotations

import torch
from torch import nn

from dhox.artefacts.metrics import GradientRow


def stages(backbone: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by stage: the top-level child, with its number where it is a list of blocks."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        words = name.split(".")
        stage = ".".join(words[: 2 if len(words) > 2 and words[1].isdigit() else 1])
        if parameter.requires_grad:
            found.setdefault(stage, []).append(parameter)
    return found


def gradient_conflict(step: int, ce: torch.Tensor, kd: torch.Tensor, backbone: nn.Module) -> list[GradientRow]:
    """Cosine, dot product and sign agreement of the losses' gradients, per stage and over the whole backbone.

    `ce`, `kd`: the two scalar losses of one batch, their graph still alive (it stays alive). The sign agreement is
    among the parameters that either gradient moves.
    arXiv 2505.07675, figure 3, gives the cosine alone.
    """
    by_stage = stages(backbone)
    parameters = [parameter for group in by_stage.values() for parameter in group]
    gradients = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (ce, kd)]
    names = [stage for stage, group in by_stage.items() for _ in group]
    sums: dict[str, torch.Tensor] = {}
    for stage, one, other in zip(names, *gradients, strict=True):
        if one is not None and other is not None:
            one, other = one.double(), other.double()
            agree, moved = (one * other > 0).sum().double(), ((one != 0) | (other != 0)).sum().double()
            parts = torch.stack([(one * other).sum(), (one * one).sum(), (other * other).sum(), agree, moved])
            for name in (stage, "backbone"):
                sums[name] = sums[name] + parts if name in sums else parts
    return [
        GradientRow(step, name, dot / max((one * other) ** 0.5, 1e-300), dot, agree / max(count, 1.0))
        for name, (dot, one, other, agree, count) in ((name, parts.tolist()) for name, parts in sums.items())
    ]


class GradientProbe:
    """`gradient_conflict` in the place of a loss: Fabric refuses any gradient through a model in mixed precision that
    is not asked for by its own `backward`."""

    def __init__(self, step: int, ce: torch.Tensor, kd: torch.Tensor, backbone: nn.Module) -> None:
        self.step, self.ce, self.kd, self.backbone = step, ce, kd, backbone
        self.rows: list[GradientRow] = []

    def backward(self) -> None:
        """Fill `rows`."""
        self.rows = gradient_conflict(self.step, self.ce, self.kd, self.backbone)

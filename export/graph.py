"""The exported graph: uint8 NHWC pixels -> normalisation -> backbone -> folded head -> probs, as a torch module."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dhox.distill.student import Student
from dhox.export.fold import Fold
from dhox.images import Preprocessing


class LinearHead(nn.Module):
    """One linear layer of C rows and one softmax: z [B, d] to probs [B, C] float32."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.linear = linear_layer(weight, bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        return self.linear(z).float().softmax(-1)


class StackedHead(nn.Module):
    """One linear layer of 2C rows, a softmax over each half, the weighted sum: equal to DHO inference."""

    def __init__(self, heads: dict[str, np.ndarray], alpha: float, beta: float) -> None:
        super().__init__()
        weight = np.concatenate([heads["ce_weight"], heads["kd_weight"] / np.float32(beta)])
        self.linear = linear_layer(weight, np.concatenate([heads["ce_bias"], heads["kd_bias"] / np.float32(beta)]))
        self.classes = len(heads["ce_bias"])
        self.register_buffer("weights", torch.tensor([alpha, 1 - alpha]).view(1, 2, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        both = self.linear(z).float().reshape(-1, 2, self.classes).softmax(-1)
        return (both * self.weights).sum(1)


class TwoHeads(nn.Module):
    """The unfolded heads: two linear layers, DHO inference."""

    def __init__(self, heads: dict[str, np.ndarray], alpha: float, beta: float) -> None:
        super().__init__()
        self.ce_head = linear_layer(heads["ce_weight"], heads["ce_bias"])
        self.kd_head = linear_layer(heads["kd_weight"], heads["kd_bias"])
        self.alpha, self.beta = alpha, beta

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        ce_probs = self.ce_head(z).float().softmax(-1)
        return self.alpha * ce_probs + (1 - self.alpha) * (self.kd_head(z).float() / self.beta).softmax(-1)


def linear_layer(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """A torch layer with these parameters, [C, d] and [C]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
    return layer


def head_arrays(student: Student) -> dict[str, np.ndarray]:
    """The heads' parameters as heads.npz holds them, float32; a single-head student has only ce_weight and ce_bias."""
    heads = {"ce": student.ce_head, "kd": student.kd_head}
    return {
        f"{name}_{part}": getattr(head, part).detach().float().cpu().numpy().copy()
        for name, head in heads.items()
        if head is not None
        for part in ("weight", "bias")
    }


def folded_head(heads: dict[str, np.ndarray], fold: Fold) -> nn.Module:
    """The head module that `fold` describes, from the arrays of heads.npz."""
    if fold.rule == "single":
        return LinearHead(heads["ce_weight"], heads["ce_bias"])
    if fold.rule == "heads":
        return TwoHeads(heads, fold.alpha, fold.beta)
    if fold.rule == "exact":
        return StackedHead(heads, fold.alpha, fold.beta)
    c_ce, c_kd = np.float32(fold.c_ce), np.float32(fold.c_kd)
    return LinearHead(
        c_ce * heads["ce_weight"] + c_kd * heads["kd_weight"], c_ce * heads["ce_bias"] + c_kd * heads["kd_bias"]
    )


class Deployable(nn.Module):
    """The whole exported function.

    Input `image`: uint8 [B, H, W, 3], or with `uint8_input` False the conventional normalised float32 [B, 3, H, W].
    Output `probs`: float32 [B, C].
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocessing: Preprocessing, uint8_input: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.uint8_input = backbone, head, uint8_input
        self.offset: torch.Tensor
        self.factor: torch.Tensor
        self.register_buffer("offset", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("factor", 1 / (255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probs of images."""
        if self.uint8_input:
            # Cast first: TensorRT refuses Transpose on UINT8. Contiguous: a channels_last tensor would make global
            # average pooling export as Shape and Gather arithmetic.
            image = (image.float().permute(0, 3, 1, 2).contiguous() - self.offset) * self.factor
        return self.head(self.backbone(image))

"""The exported graph: uint8 NHWC pixels -> normalisation -> backbone -> folded head -> probs, as a torch module."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.heads import Heads
from dhox.artefacts.manifest import Fold
from dhox.distill.students.kd_head import norm, plain_parameters, unit
from dhox.distill.students.student import Student
from dhox.export.folding.head_weights import head_weights
from dhox.export.graphs.torch_session import TorchSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors


class LinearHead(nn.Module):
    """One linear layer of C rows and one softmax: z [B, d] to probs [B, C] float32.

    With `append_unit` the layer works on [z, z/|z|] [B, 2d], as a cosine KD head needs it.
    """

    def __init__(self, weights: dict[str, np.ndarray], append_unit: bool = False) -> None:
        super().__init__()
        self.linear = _linear_layer(weights["linear.weight"], weights["linear.bias"])
        self.append_unit = append_unit

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        if self.append_unit:
            z = torch.cat([z, unit(z)], -1)
        return self.linear(z).float().softmax(-1)


class StackedHead(nn.Module):
    """One linear layer of 2C rows, a softmax over each half, the weighted sum: equal to DHO inference."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.linear = _linear_layer(weights["linear.weight"], weights["linear.bias"])
        self.classes = len(weights["linear.bias"]) // 2
        self.register_buffer("weights", torch.from_numpy(weights["weights"]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        both = self.linear(z).float().reshape(-1, 2, self.classes).softmax(-1)
        return (both * self.weights).sum(1)


class CosineStackedHead(nn.Module):
    """StackedHead for a cosine KD head: the second half of the 2C rows is divided by |z|, then its bias is added."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.linear = _linear_layer(weights["linear.weight"], None)
        self.classes = weights["bias"].shape[-1]
        self.ce_half: torch.Tensor
        self.kd_half: torch.Tensor
        self.register_buffer("bias", torch.from_numpy(weights["bias"]))
        # Not of the shape of `weights`: the exporter would merge them where alpha is 0 or 1.
        self.register_buffer("ce_half", torch.tensor([[1.0], [0.0]]))
        self.register_buffer("kd_half", torch.tensor([[0.0], [1.0]]))
        self.register_buffer("weights", torch.from_numpy(weights["weights"]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        both = self.linear(z).float().reshape(-1, 2, self.classes)
        scale = self.ce_half + self.kd_half / norm(z).float().unsqueeze(-1)  # [B, 2, 1]: 1 and 1/|z|
        return ((both * scale + self.bias).softmax(-1) * self.weights).sum(1)


class TwoHeads(nn.Module):
    """The unfolded heads: two linear layers, DHO inference."""

    def __init__(self, heads: Heads, alpha: float, beta: float) -> None:
        super().__init__()
        weights = head_weights(heads, Fold("heads", alpha, beta))
        self.ce_head = _linear_layer(weights["ce_head.weight"], weights["ce_head.bias"])
        self.kd_head = _linear_layer(weights["kd_head.weight"], weights["kd_head.bias"])
        self.cosine = heads.cosine
        self.weights: torch.Tensor
        self.register_buffer("weights", torch.from_numpy(weights["weights"]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Probs of features."""
        both = torch.stack([self.ce_head(z), self.kd_head(unit(z) if self.cosine else z)], 1)
        return (both.float().softmax(-1) * self.weights).sum(1)


def _linear_layer(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    """A torch layer with these parameters, [C, d] and [C]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = torch.from_numpy(weight.copy())
    if bias is not None:
        layer.bias.data = torch.from_numpy(bias.copy())
    return layer


def head_arrays(student: Student) -> Heads:
    """The heads as heads.npz holds them."""
    parts = [student.ce_head.weight, student.ce_head.bias]
    if student.kd_head is not None:
        parts += plain_parameters(student.kd_kind, student.kd_head)
    arrays = [part.detach().float().cpu().numpy().copy() for part in parts]
    return Heads(*arrays, *([] if student.kd_head is None else [np.array(student.kd_kind)]))


def folded_head(heads: Heads, fold: Fold) -> nn.Module:
    """The head module that `fold` describes, from the arrays of heads.npz."""
    if fold.rule == "heads":
        return TwoHeads(heads, fold.alpha, fold.beta)
    weights = head_weights(heads, fold)
    if fold.rule == "exact":
        return CosineStackedHead(weights) if heads.cosine else StackedHead(weights)
    return LinearHead(weights, append_unit=fold.rule == "linear" and heads.cosine and fold.z_norm is None)


class Deployable(nn.Module):
    """The whole exported function.

    Input `image`, by `input_kind` (one of INPUT_KINDS): uint8 [B, H, W, 3], normalised float32
    [B, 3, H, W], or float32 [B, 3, H, W] from 0 to 255. Output `probs`: float32 [B, C].
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocessing: Preprocessing, input_kind: str) -> None:
        super().__init__()
        self.backbone, self.head, self.input_kind = backbone, head, input_kind
        self.offset: torch.Tensor
        self.factor: torch.Tensor
        self.register_buffer("offset", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("factor", 1 / (255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probs of images."""
        if self.input_kind == "uint8-nhwc":
            # Cast first: TensorRT refuses Transpose on UINT8. Contiguous: a channels_last tensor would make global
            # average pooling export as Shape and Gather arithmetic.
            image = image.float().permute(0, 3, 1, 2).contiguous()
        if self.input_kind != "float-nchw":
            image = (image - self.offset) * self.factor
        return self.head(self.backbone(image))


def torch_probs(module: nn.Module, pixels: np.ndarray, tensors: Tensors) -> np.ndarray:
    """Probs of the torch module, float32 [N, C]."""
    return predict(TorchSession(module), tensors, pixels)

"""Graphs that would ask for the batch size: rewritten, they answer as torch for every batch and build for a device."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
import torch
from onnx_graphs import pixels, torch_answer
from tensorrt_rtx_build import build
from timm.models import xcit
from timm.models.edgenext import PositionalEncodingFourier
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.export.graphs.backbone import OnePositionalEncoding, PlainTokenAttention, exportable
from dhox.export.graphs.batch_size import broadcast_shape
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import shape_arithmetic
from dhox.export.half_precision.convert import convert
from dhox.runtimes.onnxruntime_session import OnnxSession

SIZE, WIDTH = 16, 8
BATCH = ir.SymbolicDim("batch")


class Encoded(nn.Module):
    """A map [B, 8, H, W] plus EdgeNeXt's encoding of its places, as EdgeNeXt adds it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding = PositionalEncodingFourier(4, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, width, height, across = x.shape
        places = self.encoding((batch, height, across)).reshape(batch, -1, width * height * across).permute(0, 2, 1)
        return (x.reshape(batch, -1, 1) + places).reshape(batch, width, height, across)


class Repeated(nn.Module):
    """A map [B, 8, H, W] plus XCiT's encoding of its places, which it repeats for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding = xcit.PositionalEncodingFourier(4, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, width, height, across = x.shape
        places = self.encoding(batch, height, across).reshape(batch, width, -1).permute(0, 2, 1)
        return (x.flatten(2).transpose(1, 2) + places).transpose(1, 2).reshape(batch, width, height, across)


class Gated(nn.Module):
    """Each row of a map divided by its length, and weighted by what one place says of it (`expand_as`)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, dim=-1) * x.sum(-1, keepdim=True).expand_as(x)


class Windows(nn.Module):
    """A map in windows of 4 x 4 along the batch, each divided by its largest value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, width, height, across = x.shape
        parts = x.reshape(batch * (height // 4), width, 4, across)
        return (parts / parts.abs().amax((2, 3), keepdim=True).clamp_min(1e-6).expand_as(parts)).reshape(x.shape)


class Resized(nn.Module):
    """A map of 16 places in 7, 3 and 16 again: ratios that float32 rounds, down and up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for side in (7, 3, SIZE):
            x = nn.functional.interpolate(x, (side, side), mode="bilinear")
        return x


class Small(nn.Module):
    """Images [B, 3, 16, 16] to features [B, 8]: a convolution, `middle`, and the mean of all places."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.mix = nn.Conv2d(3, WIDTH, 3, padding=1), middle, nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.middle(self.stem(x))).mean((2, 3))


@pytest.mark.parametrize(
    "parts", [(nn.GroupNorm(1, WIDTH), Gated(), nn.GroupNorm(4, WIDTH), Windows()), (Resized(), Encoded(), Repeated())]
)
def test_nothing_computes_with_the_batch_size(parts: tuple[nn.Module, ...]) -> None:
    torch.manual_seed(0)
    backbone = Small(nn.Sequential(*parts)).eval()
    weights = {"linear.weight": np.eye(4, WIDTH, dtype=np.float32), "linear.bias": np.zeros(4, np.float32)}
    preprocessing = Preprocessing(SIZE, SIZE, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    trained, exported = (
        Deployable(each, LinearHead(weights), preprocessing, "uint8-nhwc").eval()
        for each in (backbone, exportable(backbone))
    )
    fp32 = export_onnx(exported, SIZE, {})
    assert shape_arithmetic(fp32) == []
    assert not {"Expand", "Shape", "Tile"} & {node.op_type for node in onnx.load_from_string(fp32).graph.node}
    for content, tolerance in ((fp32, 1e-5), (convert(fp32, {}, {}), 2e-2)):
        for n in (1, 5):
            batch = pixels(SIZE, n)
            assert abs(OnnxSession(content).infer(batch) - torch_answer(trained, batch)).max() < tolerance
        assert build(content)


def value(*shape: int | ir.SymbolicDim | None) -> ir.Value:
    return ir.Value(shape=ir.Shape(shape))


@pytest.mark.parametrize(
    ("shapes", "together"),
    [
        ([(1, 4), (3, 1)], [3, 4]),
        ([(4,), (BATCH, 1, 4)], [BATCH, 1, 4]),
        ([(BATCH, 1), (BATCH, 4)], [BATCH, 4]),
        ([(1, 1), (1, 1)], [1, 1]),
        ([(BATCH, 4), (ir.SymbolicDim("other"), 4)], None),  # equal or not: unknown
        ([(BATCH, 4), (2, 4)], None),
        ([(None, 4), (1, 4)], None),
        ([(3, 4), (2, 4)], None),
    ],
)  # fmt: skip
def test_a_shape_is_known_only_where_it_is_certain(shapes: list[tuple], together: list | None) -> None:
    assert broadcast_shape([value(*shape) for shape in shapes]) == together
    assert broadcast_shape([*(value(*shape) for shape in shapes), ir.Value()]) is None


def test_the_encoding_of_places_and_attention_are_timms() -> None:
    torch.manual_seed(0)
    encoding = PositionalEncodingFourier(4, WIDTH)
    assert torch.allclose(OnePositionalEncoding(encoding)((3, 5, 6)), encoding((3, 5, 6)), atol=1e-6)
    attention = timm.layers.Attention(24, 3, qkv_bias=True, attn_head_dim=5, dim_out=7).eval()
    x = torch.randn(2, 9, 24)
    with torch.no_grad():
        assert torch.allclose(PlainTokenAttention(attention)(x), attention(x), atol=1e-6)

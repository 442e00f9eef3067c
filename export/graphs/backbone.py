"""The backbone as it is exported: the same function, in operators that compilers read without Shape arithmetic."""

from __future__ import annotations

import math
from copy import deepcopy

import timm
import torch
from open_clip.modified_resnet import AttentionPool2d
from timm.layers import activations
from timm.models import edgenext, fastvit
from timm.models.csatv2 import TransformerBlock as CSATv2Block  # the module's name is a function's in timm.models
from torch import nn


def exportable(backbone: nn.Module) -> nn.Module:
    """A copy that gives equal features up to rounding: attention spelled out, branches of a mobile network merged.

    Training branches (FastViT, MobileOne, RepViT ...) become the one convolution that they sum up to. timm's attention
    takes its spelled-out form: scaled_dot_product_attention would export with one Shape for every layer.
    """
    backbone = timm.utils.reparameterize_model(deepcopy(backbone).eval())
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MultiheadAttention) and child._qkv_same_embed_dim and child.batch_first:
                setattr(parent, name, PlainAttention(child))
            if isinstance(child, AttentionPool2d):
                setattr(parent, name, PlainAttentionPool(child))
            if isinstance(child, fastvit.Attention):
                setattr(parent, name, PlainMapAttention(child))
            if isinstance(parent, CSATv2Block) and isinstance(child, timm.layers.Attention):
                setattr(parent, name, PlainTokenAttention(child))
            if isinstance(child, edgenext.PositionalEncodingFourier):
                setattr(parent, name, OnePositionalEncoding(child))
            if isinstance(child, nn.GELU | activations.GELU) and getattr(child, "approximate", "none") == "none":
                setattr(parent, name, PlainGELU())
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in {1, (1, 1)}:
                setattr(parent, name, MeanPool())
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return backbone


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Multi-head attention of queries [B, M, d] over keys and values [B, N, d]; [B, M, d]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class PlainAttention(nn.Module):
    """torch's attention layer with its own weights: queries [B, M, d], keys, values [B, N, d] to ([B, M, d], None)."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.in_proj_weight, self.in_proj_bias = source.in_proj_weight, source.in_proj_bias
        self.out_proj = source.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Without a mask, as in every image tower; where all three are one tensor, by one product."""
        assert attn_mask is None
        if query is key and key is value:
            q, k, v = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
            q, k, v = map(nn.functional.linear, (query, key, value), weights, biases)
        return self.out_proj(attend(q, k, v, self.heads)), None


class PlainAttentionPool(nn.Module):
    """The attention pooling of CLIP's ResNets with its own weights. [B, d, H, W] to [B, D]."""

    def __init__(self, source: AttentionPool2d) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of a map: the mean of its places asks all of them and itself."""
        pool = self.source
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + pool.positional_embedding
        attended = attend(pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x), pool.num_heads)
        return pool.c_proj(attended).squeeze(1)


class PlainGELU(nn.Module):
    """The exact GELU, x/2 (1 + erf(x / sqrt 2)), multiplied in the order that ONNX Runtime fuses to one operator.

    torch's exporter writes x (1/2 (1 + erf)), which stays five operators.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return x * 0.5 * (torch.erf(x / math.sqrt(2)) + 1)


class MeanPool(nn.Module):
    """AdaptiveAvgPool2d(1). [B, d, H, W] to [B, d, 1, 1], also for channels_last maps (ConvNeXt), where torch's form
    exports as Shape and Range arithmetic.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of all places."""
        return x.mean((2, 3), keepdim=True)


class PlainTokenAttention(nn.Module):
    """CSATv2's self-attention over the places of a map with its own weights. [B, N, d] to [B, N, D].

    timm's form of it between two transpositions matches a fusion of ONNX Runtime 1.32 for MobileCLIP that fails on fp16
    weights.
    """

    def __init__(self, source: timm.layers.Attention | fastvit.Attention) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = source.qkv, source.proj, source.num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every place asks all of them."""
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, self.heads))


class PlainMapAttention(PlainTokenAttention):
    """FastViT's self-attention over a map, in the same form for the same reason. [B, d, H, W] to the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every place asks all of them."""
        return super().forward(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, x.shape[2:])


class OnePositionalEncoding(nn.Module):
    """EdgeNeXt's positional encoding [B, d, H, W], computed once for all images: a constant that is repeated."""

    def __init__(self, source: edgenext.PositionalEncodingFourier) -> None:
        super().__init__()
        self.source = source

    def forward(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """Of maps [B, d, H, W], from (B, H, W)."""
        return self.source((1, *shape[1:])).expand(shape[0], -1, -1, -1)

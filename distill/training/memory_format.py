"""Channels-last training, in which convolutions are faster, but for those that torch computes wrongly so on a CPU."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

FEW_CHANNELS = 16  # with 12 and with 1 the gradients were right


def to_channels_last(student: nn.Module) -> None:
    """Turn the weights of a student on its device in place; what it computes stays the same.

    A pointwise convolution with a stride that reads few channels (the stems of RepVGG and MobileOne read three) takes
    every stride-th place of its input instead, on a CPU: oneDNN's gradient of its weights is wrong there, and is
    written beside its memory (torch 2.14).
    """
    for weights in [*student.parameters(), *student.buffers()]:
        if weights.ndim == 4:  # Module.to would turn the weights of a Conv3d too (lambda layers), and raises there
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    for module in student.modules():
        if isinstance(module, nn.Conv2d) and _miscomputed(module):
            module.register_forward_pre_hook(partial(_every, strides=module.stride))
            module.stride = (1, 1)


def _miscomputed(conv: nn.Conv2d) -> bool:
    """Whether a strided convolution is pointwise, on few channels, without a border, and on a CPU."""
    pointwise = conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.padding == (0, 0)
    return pointwise and conv.in_channels < FEW_CHANNELS and conv.weight.device.type == "cpu"


def _every(_: nn.Module, args: tuple[torch.Tensor, ...], strides: tuple[int, ...]) -> tuple[torch.Tensor]:
    """The places of a map [B, d, H, W] that the convolution reads."""
    return (args[0][:, :, :: strides[0], :: strides[1]],)

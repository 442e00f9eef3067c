"""Channels-last training: gradients are those of contiguous training, also where torch's own would be wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from dhox.distill.training.memory_format import to_channels_last


def gradients(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    model(images).square().mean().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_gradients_are_those_of_contiguous_training() -> None:
    # In a process of its own: where they are wrong, they are written beside the memory that they have.
    code = "import test_memory_format as t; [t.compare(*each) for each in ((3, 2), (3, 4), (5, 2), (3, 1), (16, 2))]"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_weights_of_another_rank_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv2d(4, 8, 3), nn.Linear(3, 3))
    to_channels_last(model)
    assert model[0].weight.is_contiguous()
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)


def compare(channels: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(channels, 48, 1, stride, bias=False), nn.BatchNorm2d(48), nn.Conv2d(48, 8, 3))
    turned = copy.deepcopy(plain)
    to_channels_last(turned)
    assert turned[2].weight.is_contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        images = torch.randn(6, channels, 64, 64)
        there = gradients(turned, images.contiguous(memory_format=torch.channels_last))
        for expected, found in zip(gradients(plain, images), there, strict=True):
            assert torch.allclose(expected, found, atol=1e-5 * float(expected.abs().max()) + 1e-7, rtol=1e-3)
        plain.zero_grad(), turned.zero_grad()

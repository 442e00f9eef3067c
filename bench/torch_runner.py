"""The torch runner: the reference that exported files are compared with (needs torch; a board does not)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class TorchRunner:
    """A torch module on the CPU, eager, fp32, called like every other runner."""

    name = "torch"
    provider = "torch eager"

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """See dhox.bench.runners.Runner."""
        with torch.inference_mode():
            probs: np.ndarray = self.module(torch.from_numpy(batch)).numpy()
        return probs

"""Runners: what executes a model for the clock. A runner is called with a batch and answers when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dhox.errors import DhoxError
from dhox.exported import run_session
from dhox.jetson import is_jetson
from dhox.onnx_session import available_providers, open_session


class Runner(Protocol):
    """A model on a device, ready to be timed.

    `name`: what runs it. `provider`: what was really used.
    """

    name: str
    provider: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Probabilities [B, C] in host memory of one batch in host memory; returns when they are there."""


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU or on CUDA."""

    name = "onnxruntime"

    def __init__(self, model: Path, device: str) -> None:
        self.session: Any = open_session(model, device)
        self.provider: str = self.session.get_providers()[0]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """See Runner."""
        return run_session(self.session, batch)


def choose_device(asked: str) -> str:
    """The device, cpu or cuda, that `--device` (auto, cpu, cuda or jetson) means on this machine.

    Raises DhoxError where it is not there; `jetson` never falls back to the CPU.
    """
    providers = available_providers()
    has_cuda = "CUDAExecutionProvider" in providers
    if asked == "jetson" and not is_jetson():
        raise DhoxError(
            "--device jetson: this machine is not a Jetson (its device tree names no NVIDIA Tegra). Copy the export "
            "directory to the board and run dhox bench there, or use --device cpu or cuda here."
        )
    if asked in {"cuda", "jetson"} and not has_cuda:
        how = (
            "Install JetPack's build of onnxruntime-gpu into this environment"
            if asked == "jetson"
            else "With an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime: pip install 'dhox[cuda]'"
        )
        raise DhoxError(
            f"--device {asked}: ONNX Runtime here has no CUDA provider (it has: {', '.join(providers)}). "
            f"{how}; `dhox doctor` shows what is missing."
        )
    if asked == "cpu":
        return "cpu"
    return "cuda" if has_cuda else "cpu"

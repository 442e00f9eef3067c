"""Runners: what executes a model for the clock, and which of them `--device` means."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dhox.bench.ort_runner import OnnxRuntimeRunner
from dhox.bench.subjects import Subject
from dhox.errors import DhoxError
from dhox.machine import jetson
from dhox.onnx_session import available_providers, default_device


class Runner(Protocol):
    """An opened model on one device, for one thread; `close` it.

    `name`: as asked for, such as onnxruntime:graph. `facts`: what it really is, in plain values (provider, CUDA graph,
    precision, nodes off the device).
    """

    name: str
    facts: dict[str, Any]

    def bind(self, batch: np.ndarray) -> None:
        """Put one batch, as the graph takes it, where `run` finds it, and prepare for its shape. Not timed."""

    def run(self) -> None:
        """Infer the bound batch and return when it is done; input and output stay on the device."""

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """The graph's output [B, C] in host memory for a batch in host memory, of any size."""

    def close(self) -> None:
        """Give back what it holds."""


def default_runners(device: str) -> list[str]:
    """What `--device` measures with where `--runner` says nothing."""
    return ["onnxruntime"]


def open_runner(subject: Subject, runner: str, device: str, trust_engine: bool = False) -> Runner:
    """Open a model. Raises DhoxError where the device, the runtime or the engine is not there."""
    if runner != "onnxruntime":
        raise DhoxError(f"--runner {runner} is unknown. Use onnxruntime.")
    return OnnxRuntimeRunner(subject, device)


def choose_device(asked: str) -> str:
    """The device, cpu or cuda, that `--device` (auto, cpu, cuda or jetson) means on this machine.

    Raises DhoxError where it is not there; `jetson` never falls back to the CPU.
    """
    if asked == "auto":
        return default_device()
    if asked == "cpu":
        return "cpu"
    if asked == "jetson" and jetson() is None:
        raise DhoxError(
            "--device jetson: this machine is not a Jetson (its device tree names no NVIDIA Tegra). Run dhox bench "
            "there over SSH (--host USER@BOARD), or use --device cpu or cuda here."
        )
    providers = available_providers()
    if "CUDAExecutionProvider" not in providers:
        how = (
            "Install JetPack's build of onnxruntime-gpu into this environment"
            if asked == "jetson"
            else "With an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime: pip install 'dhox[cuda]'"
        )
        raise DhoxError(
            f"--device {asked}: ONNX Runtime here has no CUDA provider (it has: {', '.join(providers)}). "
            f"{how}; `dhox doctor` shows what is missing."
        )
    return "cuda"

"""Inputs and torch answers of exported graphs."""

from __future__ import annotations

import numpy as np
import torch
from tensorrt_rtx_build import build

from dhox.export.graphs.graph import Deployable
from dhox.export.graphs.placement import shape_arithmetic
from dhox.export.half_precision.calibrated import to_half
from dhox.runtimes.onnxruntime_session import OnnxSession


def pixels(size: int, n: int = 5) -> np.ndarray:
    """n images of random blocks, 8 along a side; the first of more are the same."""
    blocks, side = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), -(-size // 8)
    return np.ascontiguousarray(blocks.repeat(side, 1).repeat(side, 2)[:, :size, :size])


def torch_answer(module: Deployable, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = module(torch.from_numpy(batch)).numpy()
    return answer


def assert_runs_everywhere(module: Deployable, fp32: bytes, size: int, half_tolerance: float = 2e-2) -> None:
    """The graph and its fp16 form answer as `module` in ONNX Runtime, and TensorRT-RTX builds both as they are typed."""
    fp16 = to_half(fp32, {}, [pixels(size)]).content
    for n in (1, 5):
        batch = pixels(size, n)
        expected = torch_answer(module, batch)
        assert abs(OnnxSession(fp32).infer(batch) - expected).max() < 1e-4
        half = OnnxSession(fp16).infer(batch)
        assert np.isfinite(half).all()
        assert abs(half - expected).max() < half_tolerance
    assert shape_arithmetic(fp32) == shape_arithmetic(fp16) == []
    assert build(fp32)["HALF"] == 0
    types = build(fp16)
    assert types["HALF"] > types["FLOAT"]

"""Inputs, torch answers and operators of exported graphs."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from tensorrt_rtx_build import build

from dhox.export.calibrated import to_half
from dhox.export.graph import Deployable
from dhox.exported import run_session
from dhox.onnx_session import open_session

SHAPE_OPS = {"Shape", "Range", "Expand", "ConstantOfShape"}


def pixels(size: int, n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def shape_arithmetic(content: bytes) -> list[str]:
    """Operators that compute with the batch axis, in order; a Gather at a constant place of an activation is none."""
    nodes = onnx.load_from_string(content).graph.node
    sizes = {name for node in nodes if node.op_type == "Shape" for name in node.output}
    return [
        node.op_type
        for node in nodes
        if node.op_type in SHAPE_OPS or (node.op_type == "Gather" and sizes & set(node.input))
    ]


def torch_answer(module: Deployable, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = module(torch.from_numpy(batch)).numpy()
    return answer


def assert_runs_everywhere(module: Deployable, fp32: bytes, size: int) -> None:
    """The graph and its fp16 form answer as `module` in ONNX Runtime, and TensorRT-RTX builds both as they are typed."""
    fp16 = to_half(fp32, {}, [pixels(size)]).content
    for n in (1, 5):
        batch = pixels(size, n)
        expected = torch_answer(module, batch)
        assert abs(run_session(open_session(fp32), batch) - expected).max() < 1e-4
        half = run_session(open_session(fp16), batch)
        assert np.isfinite(half).all()
        assert abs(half - expected).max() < 2e-2
    assert shape_arithmetic(fp32) in ([], ["Shape", "Expand"])  # a class token may keep one Shape and one Expand
    assert build(fp32)["HALF"] == 0
    types = build(fp16)
    assert types["HALF"] > types["FLOAT"]

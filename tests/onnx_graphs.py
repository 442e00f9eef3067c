"""Inputs, torch answers and operators of exported graphs."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from dhox.export.graph import Deployable

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

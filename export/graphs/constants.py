"""Constants of a graph that is being rewritten."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initialiser, None for anything else."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value

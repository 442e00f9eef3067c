"""What int8 can save: multiply-adds by layer, and the advice where it may not pay."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx

from dhox.export.quantization.qdq import WEIGHTED

LITTLE_INT8 = 0.5  # share of multiply-adds below which int8 is not worth its name
MANY_PRODUCTS = 0.5  # share of a transformer's matrix products above which the warning is said


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds per image of every convolution and matrix product; 0 where a shape is not known."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.ClearField("value_info")
    for value in [*single.graph.input, *single.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    costs = {}
    for node in graph.node:
        if node.op_type in WEIGHTED:
            second = shapes.get(node.input[1], [0])
            # What one output value sums over: a filter without its output channels, or the rows of a matrix.
            length = prod(second[1:]) if node.op_type == "Conv" else shapes.get(node.input[0], [0])[-1]
            costs[node.name] = prod(shapes.get(node.output[0], [0])) * length
    return costs


def advice(model: onnx.ModelProto, share: float, costs: Mapping[str, int]) -> str | None:
    """Why int8 may not pay for this graph, or None."""
    constants = {tensor.name for tensor in model.graph.initializer}
    attention = any(node.op_type == "MatMul" and not constants & set(node.input) for node in model.graph.node)
    products = sum(costs[node.name] for node in model.graph.node if node.op_type in {"MatMul", "Gemm"})
    part = products / max(sum(costs.values()), 1)
    if attention and part > MANY_PRODUCTS:
        return (
            f"{100 * part:.0f} % of this student's work is a transformer's matrix products: int8 is often slower "
            "than fp16 there (attention itself stays fp16). Compare both files with dhox bench on the device."
        )
    if share < LITTLE_INT8:
        return (
            f"Only {100 * share:.0f} % of the multiply-adds are int8: expect little speed over fp16. Compare both "
            "files with dhox bench on the device."
        )
    return None

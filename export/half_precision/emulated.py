"""A half-precision graph in fp32 arithmetic, rounded wherever it stores a value (no torch).

This is what a tensor core does: it reads half values, multiplies and adds in fp32, and stores half. ONNX Runtime's CPU
provider does something else: it has kernels for few fp16 operators, computes the others in fp32, and rounds between
some of them only. So precision is judged on this graph, and reports say "emulated".
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dhox.export.half_precision.convert import constants_to_initializers, refill

HALF = TensorProto.FLOAT16
# Operators whose outputs are among their inputs, or constants: nothing to round
MOVING_OPS = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def emulated(model: bytes) -> bytes:
    """The fp32 graph that answers as `model` (fp16 in its types) does where products are summed in fp32."""
    source = typed_graph(model)
    graph = source.graph
    half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == HALF}
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == HALF:
                attribute.t.CopyFrom(single(attribute.t))
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name not in half or node.op_type in MOVING_OPS:
                continue
            exact, rounded = f"{name}_exact", f"{name}_rounded"
            node.output[position] = exact
            nodes.append(onnx.helper.make_node("Cast", [exact], [rounded], f"{rounded}_down", to=HALF))
            nodes.append(onnx.helper.make_node("Cast", [rounded], [name], f"{rounded}_up", to=TensorProto.FLOAT))
    initializers = [single(tensor) if tensor.data_type == HALF else tensor for tensor in graph.initializer]
    refill(graph, node=nodes, initializer=initializers, value_info=[])
    emulation: bytes = source.SerializeToString(deterministic=True)
    return emulation


def typed_graph(model: bytes) -> onnx.ModelProto:
    """A model with the types of all its tensors inferred anew, its constants as initializers."""
    source = onnx.load_from_string(model)
    constants_to_initializers(source.graph)
    source.graph.ClearField("value_info")
    return onnx.shape_inference.infer_shapes(source)


def single(tensor: TensorProto) -> TensorProto:
    """A half tensor's values in float32."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)

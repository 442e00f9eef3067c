"""fp32 ONNX bytes to fp16 ONNX bytes, with the precision written into the graph.

TensorRT 11 has no other way to fp16, and strongly typed TensorRT 10 reads the same file. The backbone and the last
linear layer become fp16; the normalisation before and the softmax tail behind stay fp32, with one Cast at each border.
(onnxruntime.transformers.float16 was tried: it rounds every value inside an fp32 part through fp16.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dhox.errors import DhoxError
from dhox.export.onnx_export import finish

PREPROCESSING_OPS = {"Cast", "Transpose", "Sub", "Mul", "Div"}
LINEAR_OPS = {"Gemm", "MatMul"}
FP32_OPS = {"ReduceL2"}  # |z| of a cosine KD head: its squares would overflow fp16
FP32_INPUTS = {"Resize": (1, 2)}  # roi and scales are float32 by the operator's definition
FP16_MAX = 65504.0


def to_fp16(fp32: bytes, metadata: dict[str, Any]) -> bytes:
    """Convert a file of `export_onnx`. Raises DhoxError where a weight does not fit fp16."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(fp32))
    graph = model.graph
    kept = fp32_nodes(graph)
    floats = {
        value.name
        for value in [*graph.value_info, *graph.input, *graph.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, TensorProto] = {}
    body_outputs = {name for node in graph.node if node.name not in kept for name in node.output if name in floats}

    nodes: list[onnx.NodeProto] = []
    cast: set[str] = set()
    for node in graph.node:
        is_body = node.name not in kept
        target, suffix = (TensorProto.FLOAT16, "fp16") if is_body else (TensorProto.FLOAT, "fp32")
        for position, name in enumerate(node.input):
            if is_body and position in FP32_INPUTS.get(node.op_type, ()):
                continue
            if name in weights and is_body:
                halves[name] = half_tensor(weights[name])
                node.input[position] = halves[name].name
            elif name in floats and (name in body_outputs) != is_body:
                casted = f"{name}_{suffix}"
                if casted not in cast:
                    nodes.append(onnx.helper.make_node("Cast", [name], [casted], f"cast_{casted}", to=target))
                    cast.add(casted)
                node.input[position] = casted
        if is_body:
            retype_attributes(node)
        nodes.append(node)

    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in [*graph.initializer, *halves.values()] if tensor.name in used]
    for field, content in (("node", nodes), ("initializer", initializers), ("value_info", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    return finish(onnx.shape_inference.infer_shapes(model, strict_mode=True), metadata)


def fp32_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes before the backbone (normalisation) and behind the last linear layer (the head's tail)."""
    names = {node.name for node in graph.node if node.op_type in FP32_OPS}
    reached = {"image"}
    for node in graph.node:
        if node.op_type in PREPROCESSING_OPS and reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    tail = {"probs"}
    for node in reversed(graph.node):
        if tail & set(node.output) and node.op_type not in LINEAR_OPS | FP32_OPS:
            names.add(node.name)
            tail |= set(node.input)
    return names


def half_tensor(tensor: TensorProto) -> TensorProto:
    """A float32 initializer in fp16 under a name of its own."""
    array = numpy_helper.to_array(tensor)
    if not (abs(array) <= FP16_MAX).all():
        raise DhoxError(f"The weight {tensor.name} holds {abs(array).max():.3g}, beyond fp16. Export without --fp16.")
    return numpy_helper.from_array(array.astype(np.float16), f"{tensor.name}_fp16")


def retype_attributes(node: onnx.NodeProto) -> None:
    """float32 inside a body node's attributes to fp16: the target of a Cast, the value of a Constant."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))

"""fp32 ONNX bytes to fp16, with the types written into the graph (no torch).

TensorRT 11 has no other way to fp16, and strongly typed TensorRT 10 reads the same file. `convert` types a graph as it
is told; `to_half` (export/half_precision/calibrated.py) finds out on real images what has to stay fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dhox.artefacts.manifest import HalfConversion, Int8Conversion
from dhox.errors import DhoxError
from dhox.export.graphs.onnx_contract import OPSET, finish

LARGEST = 65504.0
PREPROCESSING_OPS = {"Cast", "Transpose", "Sub", "Mul", "Div"}
LINEAR_OPS = {"Gemm", "MatMul"}
NORM_OPS = {"ReduceL2"}  # |z| of a cosine KD head: its squares would overflow fp16
ROOTS = {"Sqrt", "Reciprocal"}  # behind a mean of squares: a norm that is not one operator
TAIL = "the head's tail"
FP32_INPUTS = {"Resize": (1, 2)}  # roi and scales are float32 by the operator's definition
QUANTISED_OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take half types
SMALLEST_SCALE = 2.0**-17  # fp16 rounds a scale above it by less than half a step of int8 (1/127) at full range


@dataclass(frozen=True)
class Converted:
    """A graph in one precision, and how it came about; None for fp32. An fp16 `difference` is the emulated graph's."""

    content: bytes
    opset: int
    account: HalfConversion | Int8Conversion | None


def convert(model: bytes, metadata: dict[str, Any], kept: Mapping[str, str]) -> bytes:
    """Type a file of dhox: fp16 between the normalisation and the head's tail, but for the nodes `kept`.

    `model`: fp32, opset 18. The file has the first opset whose operators take the types: 18, or 19 with
    QuantizeLinear and DequantizeLinear. `kept`: name of a node -> why it stays fp32. One Cast stands at each border.
    Raises DhoxError where a weight of a half node is beyond fp16.

    ONNX Runtime runs the half Q/DQ pairs as they stand with the session option session.disable_quant_qdq = 1.
    """
    source = onnx.load_from_string(model)
    constants_to_initializers(source.graph)
    source = onnx.shape_inference.infer_shapes(source)
    graph = source.graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names), "nodes need names of their own"
    assert set(kept) <= set(names), set(kept) - set(names)
    full = with_bridges(graph, {*fp32_nodes(graph), *kept})
    floats = float_tensors(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    half_outputs = {name for node in graph.node if node.name not in full for name in node.output if name in floats}

    nodes: list[onnx.NodeProto] = []
    added: dict[str, TensorProto] = {}
    cast: set[str] = set()
    for node in graph.node:
        is_half = node.name not in full
        target, suffix = (TensorProto.FLOAT16, "fp16") if is_half else (TensorProto.FLOAT, "fp32")
        if is_half and node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            _raise_scale(node, weights, added)
        for position, name in enumerate(node.input):
            if is_half and position in FP32_INPUTS.get(node.op_type, ()):
                continue
            tensor = added.get(name) or weights.get(name)
            if tensor is not None:
                if is_half and tensor.data_type == TensorProto.FLOAT:
                    node.input[position] = f"{name}_fp16"
                    added[f"{name}_fp16"] = _half_tensor(tensor, node)
            elif name in floats and (name in half_outputs) != is_half:
                casted = f"{name}_{suffix}"
                if casted not in cast:
                    nodes.append(onnx.helper.make_node("Cast", [name], [casted], f"cast_{casted}", to=target))
                    cast.add(casted)
                node.input[position] = casted
        if is_half:
            _retype_attributes(node)
        nodes.append(node)

    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in [*graph.initializer, *added.values()] if tensor.name in used]
    refill(graph, node=nodes, initializer=initializers, value_info=[])
    # Up to 19 these operators gained only types, and attributes with the old behaviour as default (a test holds this).
    quantised = any(node.op_type == "QuantizeLinear" for node in nodes)
    opset = QUANTISED_OPSET if quantised else OPSET
    next(entry for entry in source.opset_import if not entry.domain).version = opset
    return finish(onnx.shape_inference.infer_shapes(source, strict_mode=True), metadata, opset)


def fp32_nodes(graph: onnx.GraphProto) -> dict[str, str]:
    """Nodes that always stay fp32, and why: pixels, |z|, norms' squares, the tail behind the last linear layer."""
    found = {node.name: "|z|: its squares pass 65504" for node in graph.node if node.op_type in NORM_OPS}
    found |= dict.fromkeys(_spelt_out_norms(graph), "a norm's mean of squares")
    reached = {"image"}
    for node in graph.node:
        if node.op_type in PREPROCESSING_OPS and reached & set(node.input):
            found[node.name] = "normalisation of pixels"
            reached |= set(node.output)
    tail = {"probs"}
    for node in reversed(graph.node):
        if tail & set(node.output) and node.op_type not in LINEAR_OPS | NORM_OPS:
            found[node.name] = TAIL
            tail |= set(node.input)
    return found


def _spelt_out_norms(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from the squares to the root of norms that are not one operator."""
    maker = {name: node for node in graph.node for name in node.output}
    found = set()
    for root in graph.node:
        path, node = {root.name}, root
        while node.op_type in {*ROOTS, "Add", "Max", "Clip", "ReduceMean", "ReduceSum"} and node.input[0] in maker:
            node = maker[node.input[0]]
            path.add(node.name)
        squares = node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])
        if root.op_type in ROOTS and squares:
            found |= path
    return found


def with_bridges(graph: onnx.GraphProto, full: set[str]) -> set[str]:
    """`full` with the nodes that convert by themselves, so that no Cast is needed beside them.

    QuantizeLinear takes the type of what it reads; a node that reads no float activation (DequantizeLinear, Cast of
    integers) has the type of its readers.
    """
    floats = float_tensors(graph)
    constants = {tensor.name for tensor in graph.initializer}
    maker = {name: node.name for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    bridged = set(full)
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and maker.get(node.input[0]) in {None, *bridged}:
            bridged.add(node.name)
    for node in reversed(graph.node):
        read = {name for name in node.input if name in floats - constants}
        users = {user for name in node.output for user in readers.get(name, ())}
        if not read and users and users <= bridged:
            bridged.add(node.name)
    return bridged


def cast_tensors(graph: onnx.GraphProto, full: set[str]) -> set[str]:
    """Activations that need a Cast where the nodes `full` are fp32 and the others half: read in the other precision."""
    activations = float_tensors(graph) - {tensor.name for tensor in graph.initializer}
    bridged = with_bridges(graph, full)
    half = {name for node in graph.node if node.name not in bridged for name in node.output}
    return {
        name
        for node in graph.node
        for position, name in enumerate(node.input)
        if name in activations
        and (node.name in bridged) == (name in half)
        and (node.name in bridged or position not in FP32_INPUTS.get(node.op_type, ()))
    }


def float_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of all float32 tensors of a graph with inferred types."""
    values = [*graph.value_info, *graph.input, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT} | {
        tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT
    }


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Constant nodes as initializers, so that each reader has them in its own precision."""
    rest = []
    for node in graph.node:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in values:
            tensor = TensorProto()
            tensor.CopyFrom(values["value"])
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        elif node.op_type == "Constant" and {"value_float", "value_floats"} & set(values):
            array = np.array(next(iter(values.values())), np.float32)
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        else:
            rest.append(node)
    refill(graph, node=rest)


def refill(graph: onnx.GraphProto, **lists: list[Any]) -> None:
    """Replace whole lists of a graph."""
    for field, content in lists.items():
        graph.ClearField(field)
        getattr(graph, field).extend(content)


def _half_tensor(tensor: TensorProto, node: onnx.NodeProto) -> TensorProto:
    """A float32 initializer of `node` in fp16, under a name of its own."""
    array = numpy_helper.to_array(tensor)
    if not (abs(array) <= LARGEST).all():
        raise DhoxError(
            f"The weight {tensor.name} of {node.name} ({node.op_type}) holds {abs(array).max():.3g}, beyond fp16.",
            "Export without --fp16.",
        )
    half = array.astype(np.float16)
    return numpy_helper.from_array(half, f"{tensor.name}_fp16")


def _raise_scale(node: onnx.NodeProto, weights: Mapping[str, TensorProto], added: dict[str, TensorProto]) -> None:
    """Raise scales that fp16 would round badly to SMALLEST_SCALE, and requantise constant integers to the new ones."""
    scale = numpy_helper.to_array(weights[node.input[1]])
    raised = np.maximum(scale, np.float32(SMALLEST_SCALE))
    if np.array_equal(scale, raised):
        return
    added[f"{node.input[1]}_raised"] = numpy_helper.from_array(raised, f"{node.input[1]}_raised")
    if node.op_type == "DequantizeLinear" and node.input[0] in weights:
        integers = numpy_helper.to_array(weights[node.input[0]])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[axis] = -1
        zero = numpy_helper.to_array(weights[node.input[2]]).reshape(shape) if len(node.input) > 2 else 0
        levels = (integers.astype(np.float32) - zero) * (scale / raised).reshape(shape)
        moved = (np.rint(levels) + zero).astype(integers.dtype)
        added[f"{node.input[0]}_raised"] = numpy_helper.from_array(moved, f"{node.input[0]}_raised")
        node.input[0] = f"{node.input[0]}_raised"
    node.input[1] = f"{node.input[1]}_raised"


def _retype_attributes(node: onnx.NodeProto) -> None:
    """float32 inside a half node's attributes: the target of a Cast, the value of a ConstantOfShape."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half_tensor(attribute.t, node))

"""The head's numbers in a written ONNX file: replaced by name, in the types of that file, all else as it stands."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dhox.errors import DhoxError, first_line, require

LINEAR_OPS = ("Gemm", "MatMul")
INT8_MAX = 127


def refold(content: bytes, old: dict[str, np.ndarray], new: dict[str, np.ndarray], fold: dict[str, Any]) -> bytes:
    """The same file with other numbers in its head, and `fold` in its metadata.

    `old`, `new`: `dhox.export.folding.head_weights.head_weights` before and after, of the same rule. Floating-point
    tensors keep their type, int8 weights get new scales; a number that stays keeps its bytes. Raises DhoxError where
    the file does not hold the old head, or its types cannot hold the new one.
    """
    onnx = require("onnx", "export")
    model = parsed(content)
    for name, before in old.items():
        if not np.array_equal(before, new[name]):
            _replace_parameter(model.graph, f"head.{name}", before, new[name])
    for entry in model.metadata_props:
        if entry.key == "dhox.fold":
            entry.value = json.dumps(fold, ensure_ascii=False)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        raise DhoxError(f"The rewritten graph is no valid ONNX ({first_line(err)}).", "Export the run again.") from err
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def parsed(content: bytes) -> Any:
    """A ModelProto. Raises DhoxError for bytes that are none."""
    onnx = require("onnx", "export")
    try:
        return onnx.load_from_string(content)
    except Exception as err:  # protobuf's own exceptions depend on its build
        raise DhoxError(
            f"An ONNX file of this export is damaged ({first_line(err)}).", "Export the run again."
        ) from err


def _replace_parameter(graph: Any, name: str, before: np.ndarray, after: np.ndarray) -> None:
    """Write `after` into every initialiser that holds the parameter `name`: `name` itself or `name`_SUFFIX."""
    onnx = require("onnx", "export")
    held = [
        tensor
        for tensor in graph.initializer
        if (tensor.name == name or tensor.name.startswith(f"{name}_")) and tuple(tensor.dims) == before.shape
    ]
    users = [node for tensor in held for node in graph.node if tensor.name in node.input]
    if not held or len(users) != len(held):
        raise DhoxError(
            f"The graph has no {name} of its own (the exporter merged or dropped it, because of its present value).",
            "Export the run again in place of retuning.",
        )
    for tensor in held:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise DhoxError(f"{name} lies outside its ONNX file.", "Export the run again in place of retuning.")
        if tensor.data_type == onnx.TensorProto.INT8:
            requantise(graph, tensor, before, after)
        else:
            _check_holds(name, onnx.numpy_helper.to_array(tensor).astype(np.float32), before, 2**-7 * abs(before).max())
            put(tensor, _in_type_of(tensor, after))


def requantise(graph: Any, tensor: Any, before: np.ndarray, after: np.ndarray) -> None:
    """Symmetric int8 weights and their scales, per channel or per tensor as the DequantizeLinear node has them.

    As the exporter does it: weights are rounded by float32 scales, which are then stored in the type of the file.
    """
    onnx = require("onnx", "export")
    node = next(node for node in graph.node if tensor.name in node.input)
    tensors = {entry.name: entry for entry in graph.initializer}
    zero_point = tensors.get(node.input[2]) if len(node.input) > 2 else None
    if node.op_type != "DequantizeLinear" or (zero_point and onnx.numpy_helper.to_array(zero_point).any()):
        raise DhoxError(f"{tensor.name} is not quantised symmetrically.", "Export the run again in place of retuning.")
    scale = tensors[node.input[1]]
    present = onnx.numpy_helper.to_array(scale).astype(np.float32)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % before.ndim
    others = tuple(i for i in range(before.ndim) if i != axis) if present.ndim else None
    shape = [-1 if i == axis else 1 for i in range(before.ndim)] if present.ndim else []
    quantised = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    _check_holds(tensor.name, quantised * present.reshape(shape), before, abs(present).max())

    largest = abs(after).max(axis=others).astype(np.float64) / INT8_MAX
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
    steps = np.rint(after / scales.reshape(shape))
    put(scale, _in_type_of(scale, scales))
    put(tensor, np.clip(steps, -INT8_MAX, INT8_MAX).astype(np.int8))


def _check_holds(name: str, present: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raise DhoxError where a graph does not hold the numbers that the manifest and heads.npz give."""
    if not abs(present - expected).max() <= tolerance:
        raise DhoxError(
            f"{name} in the graph is not the head that heads.npz and the manifest describe.", "Export the run again."
        )


def _in_type_of(tensor: Any, values: np.ndarray) -> np.ndarray:
    """Numbers rounded to a tensor's type. Raises DhoxError where they overflow fp16."""
    onnx = require("onnx", "export")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if dtype == np.float16 and not (abs(values) <= np.finfo(np.float16).max).all():
        raise DhoxError(
            f"{tensor.name} would hold {abs(values).max():.3g}, beyond fp16.",
            "Choose a larger beta or tau, or export without fp16.",
        )
    rounded: np.ndarray = values.astype(dtype)
    return rounded


def put(tensor: Any, values: np.ndarray) -> None:
    """Write numbers of the tensor's own type into it, in the encoding that it has."""
    onnx = require("onnx", "export")
    if tensor.HasField("raw_data"):
        tensor.raw_data = values.tobytes()
    else:
        listed = values.astype(np.float32 if values.dtype.kind != "i" else np.int64).ravel().tolist()
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, listed))


def with_features(content: bytes, name: str) -> tuple[bytes, str]:
    """The same graph with one more output, the input of the linear layer that holds the parameter `name`; its name."""
    model = parsed(content)
    linear = [node for node in model.graph.node if node.op_type in LINEAR_OPS]
    layer = next((node for node in linear if f"head.{name}" in node.input), None)
    if layer is None:
        raise DhoxError(f"The graph has no linear layer with {name}.", "Export the run again in place of retuning.")
    model.graph.output.add(name=layer.input[0])
    return model.SerializeToString(deterministic=True), layer.input[0]

"""A graph pass after which nothing computes with the batch size: targets of Reshape become constants, Expands go.

torch writes GroupNorm's end as Reshape(y, Shape(x)), and `expand_as` as Expand(y, [batch, 64, 4, 16]). The exporter
knows each of these sizes but the batch, and a Reshape need not know that one: -1 stands for it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dhox.export.graphs.constants import constant, initializer

Size = int | ir.SymbolicDim
REPEATING = {"Expand", "Tile"}
BROADCASTING = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where"}


def without_batch_size(model: ir.Model) -> None:
    """Rewrite `model` in place, where every value stays the same.

    A Reshape to sizes of which one is symbolic takes -1 for it; a Resize takes scales for sizes; an Expand or a Tile
    before operators that broadcast to the same shape by themselves is left out, also where the constant that it repeats
    is only reshaped and transposed in between. Whatever is not certain stays.
    """
    sizes: dict[ir.Value, list[Size]] = {}
    repeated: dict[ir.Value, np.ndarray] = {}
    for node in list(model.graph):
        if (found := _sizes(node, sizes)) is not None:
            sizes[node.outputs[0]] = found
            continue
        if node.op_type == "Reshape" and (target := _of(node.inputs[1], sizes)) is not None:
            _reshape_to_constant(model.graph, node, target)
        elif node.op_type == "Resize" and (target := _of(node.inputs[-1], sizes)) is not None:
            _resize_by_scales(model.graph, node, target)
        elif node.op_type in REPEATING and _of(node.inputs[1], sizes) is not None:
            _read_before_broadcast(node.outputs[0], node.inputs[0])
        if (row := _repeated_row(node, repeated)) is not None:
            repeated[node.outputs[0]] = row
            if node.op_type not in REPEATING:
                once = initializer(model.graph, f"{node.outputs[0].name}_once", row)
                _read_before_broadcast(node.outputs[0], once)


def _sizes(node: ir.Node, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    """The sizes that a node gives, where it computes with sizes that are known."""
    if node.op_type == "Shape":
        shape = None if node.inputs[0] is None else node.inputs[0].shape
        if shape is None or any(map(_nameless, shape)):
            return None
        bounds = slice(*(node.attributes[key].as_int() if key in node.attributes else None for key in ("start", "end")))
        return list(shape)[bounds]
    if not any(value in known for value in node.inputs):
        return None
    parts = [_of(value, known) for value in node.inputs]
    if None in parts:
        return None
    if node.op_type == "Concat":
        return [size for part in parts if part is not None for size in part]
    if node.op_type in {"Reshape", "Squeeze", "Unsqueeze"}:
        return parts[0]
    if node.op_type == "Mul" and all(part is not None and len(part) == 1 for part in parts):
        return [ir.SymbolicDim("*".join(str(size) for part in parts if part is not None for size in part))]
    return None


def _nameless(size: Size) -> bool:
    """Whether nothing is known of a size: neither its number nor its name."""
    return isinstance(size, ir.SymbolicDim) and size.value is None


def _of(value: ir.Value | None, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    """The sizes that a value holds: computed ones, or a constant's beside them."""
    if value is None or value in known:
        return None if value is None else known[value]
    if value.const_value is None or value.const_value.dtype != ir.DataType.INT64:
        return None
    return [int(size) for size in value.const_value.numpy().reshape(-1)]


def _reshape_to_constant(graph: ir.Graph, reshape: ir.Node, target: list[Size]) -> None:
    """Reshape(x, sizes) -> Reshape(x, constant) where at most one of the sizes is symbolic."""
    symbolic = [size for size in target if not isinstance(size, int)]
    if len(symbolic) > 1 or any(isinstance(size, int) and size <= 0 for size in target):
        return
    sizes = np.array([size if isinstance(size, int) else -1 for size in target], np.int64)
    result = reshape.outputs[0]
    reshape.replace_input_with(1, initializer(graph, f"{result.name}_target", sizes))
    if result.shape is None or any(map(_nameless, result.shape)):
        result.shape = ir.Shape(target)


def _resize_by_scales(graph: ir.Graph, resize: ir.Node, target: list[Size]) -> None:
    """Resize(x, sizes) -> Resize(x, scales), the same ratios: 1 along the batch.

    The size is the floor of size * scale, which float32 rounds: the scale is the next float32 above where it must be.
    """
    source = resize.inputs[0]
    shape = None if source is None else source.shape
    if len(resize.inputs) != 4 or resize.inputs[2] is not None or shape is None or len(shape) != len(target):
        return
    scales = []
    for before, after in zip(shape, target, strict=True):
        if isinstance(before, int) and isinstance(after, int):
            scale = np.float32(after) / np.float32(before)
            scales.append(
                scale if np.floor(np.float32(before) * scale) == after else np.nextafter(scale, np.float32(np.inf))
            )
        elif before == after:
            scales.append(np.float32(1))
        else:
            return
    value = initializer(graph, f"{resize.outputs[0].name}_scales", np.array(scales, np.float32))
    resize.replace_input_with(2, value)
    resize.resize_inputs(3)


def _repeated_row(node: ir.Node, repeated: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
    """The constant [1, ...] of which a node gives one copy for each image, None where it gives nothing of the kind."""
    shape = node.outputs[0].shape
    if node.op_type not in {*REPEATING, "Reshape", "Transpose"} or shape is None:
        return None
    source, rest = node.inputs[0], list(shape)[1:]
    if source is None or not all(isinstance(size, int) for size in rest):
        return None
    row = constant(source) if node.op_type in REPEATING else repeated.get(source)
    if row is None or row.ndim == 0 or row.shape[0] != 1:
        return None
    if node.op_type in REPEATING:
        return row if list(row.shape[1:]) == rest else None
    if source.shape is None or source.shape[0] != shape[0]:
        return None
    if node.op_type == "Reshape":
        return row.reshape(1, *rest)
    order = list(node.attributes["perm"].as_ints())
    return row.transpose(order) if order[0] == 0 else None


def _read_before_broadcast(value: ir.Value, source: ir.Value | None) -> None:
    """Readers of `value`, which is `source` expanded, read `source` where they bring it to that shape themselves."""
    for use in list(value.uses()):
        node = use.node
        inputs = [source if each is value else each for each in node.inputs]
        result = node.outputs[0].shape
        if node.op_type in BROADCASTING and result is not None and broadcast_shape(inputs) == list(result):
            node.replace_input_with(use.idx, source)


def broadcast_shape(values: list[ir.Value | None]) -> list[Size] | None:
    """The shape that values broadcast to (numpy's rules), None where it is not certain."""
    shapes: list[list[Size]] = [list(value.shape) for value in values if value is not None and value.shape is not None]
    if len(shapes) != len(values):
        return None
    rank = max(map(len, shapes))
    result: list[Size] = []
    ones: list[Size] = [1] * rank
    for column in zip(*(ones[len(shape) :] + shape for shape in shapes), strict=True):
        sizes = [size for size in column if size != 1]
        if any(size != sizes[0] or _nameless(size) for size in sizes):
            return None
        result.append(sizes[0] if sizes else 1)
    return result

"""Passes over the exporter's graph: constants folded, class tokens put in front without asking for the batch size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dhox.export.graphs.batch_size import without_batch_size
from dhox.export.graphs.constants import constant, initializer

LARGEST_CONSTANT = 1 << 24  # elements; torch's exporter stops at 1,024 read or 512 x 512 written


def simplify(model: ir.Model) -> None:
    """Rewrite `model` in place. Every value that a graph output depends on stays the same, bit by bit."""
    onnxscript.optimizer.fold_constants(model, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    without_batch_size(model)
    for node in list(model.graph):
        if node.op_type == "Concat":
            _pad_instead_of_concat(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _pad_instead_of_concat(graph: ir.Graph, concat: ir.Node) -> None:
    """Concat(Expand(token, batch), ..., x) on axis 1 -> Pad(x) + [token, ..., 0]; anything else stays.

    The rows of x gain a zero, the tokens' rows are zero before: both are exact. A position embedding that is added
    next goes into the same constant.
    """
    *fronts, rest = concat.inputs
    tokens = [_expanded_constant(value) for value in fronts]
    axis = concat.attributes["axis"].as_int()
    if axis != 1 or rest is None or rest.shape is None or len(rest.shape) != 3 or not tokens:
        return
    length, width = rest.shape[1], rest.shape[2]
    if not isinstance(length, int) or not isinstance(width, int):
        return
    front = [token for token in tokens if token is not None and token.ndim == 3 and token.shape[::2] == (1, width)]
    if len(front) != len(tokens):
        return
    added = np.concatenate([*front, np.zeros((1, length, width), front[0].dtype)], axis=1)
    last, out = concat, concat.outputs[0]
    following = [use.node for use in out.uses()]
    if len(following) == 1 and following[0].op_type == "Add":
        position = constant(next(value for value in following[0].inputs if value is not out))
        if position is not None and position.shape in {added.shape, added.shape[1:]}:
            last, added = following[0], added + position
    pads = np.array([0, added.shape[1] - length, 0, 0, 0, 0], np.int64)
    name = concat.name or out.name
    padded = ir.node("Pad", [rest, initializer(graph, f"{name}_pads", pads)], name=f"{name}_pad")
    total = ir.node("Add", [padded.outputs[0], initializer(graph, f"{name}_tokens", added)], name=f"{name}_add_tokens")
    padded.outputs[0].name, total.outputs[0].name = f"{name}_padded", f"{name}_with_tokens"
    for value in (padded.outputs[0], total.outputs[0]):
        value.type, value.shape = out.type, out.shape
    graph.insert_before(last, [padded, total])
    ir.convenience.replace_all_uses_with(last.outputs[0], total.outputs[0])


def _expanded_constant(value: ir.Value | None) -> np.ndarray | None:
    """The constant that an Expand repeats along the batch, None where `value` is nothing of the kind."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Expand":
        return None
    return constant(node.inputs[0])

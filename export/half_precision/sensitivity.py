"""What half precision in some nodes alone does to the probabilities, and which nodes do the most (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dhox.export.half_precision.convert import FP32_INPUTS, float_tensors, refill
from dhox.runtimes.onnxruntime_api import open_session


class Damage:
    """Largest difference of a probability where some nodes of an fp32 graph are fp16, the others fp32.

    Half means: what a node reads, its weights among it, and what it writes are rounded; it sums in fp32.
    """

    def __init__(self, model: bytes, nodes: Sequence[str], image: np.ndarray, reference: np.ndarray) -> None:
        """`nodes`: those that may be half. `image`: a batch as the graph takes it; `reference`: its fp32 probs."""
        self.nodes, self.image, self.reference = nodes, image, reference
        self.session = open_session(switched(model, nodes))

    def of(self, half: Sequence[str]) -> float:
        """Where these nodes are half; infinite where an answer is not finite."""
        chosen = set(half)
        switches = {f"half/{name}": np.array(name in chosen) for name in self.nodes}
        return largest_difference(self.session.run(["probs"], {"image": self.image, **switches})[0], self.reference)

    def worst_first(self) -> Iterator[tuple[str, float]]:
        """Every node with its damage alone, the greatest first, by bisection of the graph: best-first branch and bound.

        A stretch of nodes is divided only when no other does more damage. Rounding errors of nodes add up nearly
        independently, so that a stretch does about as much as its worst node at least: the order is nearly right, and
        the first nodes take few runs.
        """
        waiting: list[tuple[float, int, int]] = []

        def measure(start: int, end: int) -> None:
            if start < end:
                heappush(waiting, (-self.of(self.nodes[start:end]), start, end))

        measure(0, len(self.nodes))
        while waiting:
            damage, start, end = heappop(waiting)
            if end - start == 1:
                yield self.nodes[start], -damage
            else:
                measure(start, (start + end) // 2)
                measure((start + end) // 2, end)


def largest_difference(probs: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference of a probability, infinite where one is not finite."""
    return float(abs(probs - reference).max()) if np.isfinite(probs).all() else float("inf")


def switched(model: bytes, names: Sequence[str]) -> bytes:
    """The fp32 graph with an input `half/NODE`, bool [], for each node in `names`: whether it rounds.

    Each of these nodes stands in both branches of an If, so that nothing is computed or copied for the other one.
    """
    source = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    graph = source.graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    floats, chosen = float_tensors(graph), set(names)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        switch = f"half/{node.name}"
        graph.input.append(onnx.helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        branches = {
            "then_branch": _rounding(node, floats, weights, types),
            "else_branch": _branch(f"{switch}/else", [_renamed(node, f"{switch}/else/exact")], node, types),
        }
        nodes.append(onnx.helper.make_node("If", [switch], [name for name in node.output if name], switch, **branches))
    refill(graph, node=nodes, value_info=[])
    content_bytes: bytes = source.SerializeToString()
    return content_bytes


def _rounding(
    node: onnx.NodeProto, floats: set[str], weights: dict[str, TensorProto], types: dict[str, int]
) -> onnx.GraphProto:
    """A graph without inputs: the node on rounded values of what it reads, its outputs rounded."""
    prefix = f"half/{node.name}/then"
    inner = _renamed(node, f"{prefix}/exact")
    nodes, constants = [], []
    for position, name in enumerate(node.input):
        if name not in floats or position in FP32_INPUTS.get(node.op_type, ()):
            continue
        inner.input[position] = f"{prefix}/{position}"
        if name in weights:
            half = numpy_helper.to_array(weights[name]).astype(np.float16).astype(np.float32)
            constants.append(numpy_helper.from_array(half, inner.input[position]))
        else:
            nodes += _rounded(name, inner.input[position])
    nodes.append(inner)
    for position, name in enumerate(node.output):
        if name in floats:
            exact, inner.output[position] = inner.output[position], f"{prefix}/raw/{position}"
            nodes += _rounded(inner.output[position], exact)
    return _branch(prefix, nodes, node, types, constants)


def _rounded(value: str, output: str) -> list[onnx.NodeProto]:
    """The two casts from a float32 value to the float32 value that fp16 has of it."""
    make = onnx.helper.make_node
    return [
        make("Cast", [value], [f"{output}/down"], to=TensorProto.FLOAT16),
        make("Cast", [f"{output}/down"], [output], to=TensorProto.FLOAT),
    ]


def _renamed(node: onnx.NodeProto, prefix: str) -> onnx.NodeProto:
    """A copy whose outputs are called PREFIX/POSITION."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for position, name in enumerate(node.output):
        copy.output[position] = f"{prefix}/{position}" if name else ""
    return copy


def _branch(
    prefix: str, nodes: list[onnx.NodeProto], node: onnx.NodeProto, types: dict[str, int],
    constants: Sequence[TensorProto] = (),
) -> onnx.GraphProto:  # fmt: skip
    """A branch that gives PREFIX/exact/POSITION for each output of `node`."""
    outputs = [
        onnx.helper.make_tensor_value_info(f"{prefix}/exact/{position}", types[name], None)
        for position, name in enumerate(node.output)
        if name
    ]
    return onnx.helper.make_graph(nodes, prefix, [], outputs, constants)

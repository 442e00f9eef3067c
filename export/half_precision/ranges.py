"""How large the values in an fp32 graph become on real images (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dhox.export.half_precision.convert import float_tensors, refill
from dhox.runtimes.onnxruntime_api import open_session

SUM_OPS = {"ReduceMean", "ReduceSum", "ReduceSumSquare"}
DENOMINATORS = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}  # operator -> the input that must not become 0
SAME_VALUES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # only the order is another


@dataclass(frozen=True)
class Ranges:
    """Over all images. `largest`: tensor -> max |x|. `smallest`: denominators -> min |x|. `sums`: node -> max sum |x|.

    A value that is not finite makes its tensor's `largest` infinite. `probs`: the graph's answers, float32 [B, C] of
    each batch.
    """

    largest: dict[str, float]
    smallest: dict[str, float]
    sums: dict[str, float]
    probs: list[np.ndarray]


def measure_ranges(model: bytes, inputs: Sequence[np.ndarray]) -> Ranges:
    """Run an fp32 graph of dhox on batches as its input takes them. Only a few numbers per tensor leave the graph."""
    probe = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    wanted = _with_probes(probe.graph)
    # Without an order the probes run last, when the memory holds every tensor of the graph.
    session = open_session(probe.SerializeToString(), in_file_order=True)
    found: dict[str, dict[str, float]] = {"max": {}, "min": {}, "total": {}, "smallest": {}, "sums": {}}
    answers = []
    for batch in inputs:
        probs, *values = session.run(["probs", *(f"{kind}/{name}" for kind, name in wanted)], {"image": batch})
        answers.append(probs)
        for (kind, name), value in zip(wanted, values, strict=True):
            number = abs(float(value)) if np.isfinite(value) else float("inf")
            better = min if kind == "smallest" else max
            found[kind][name] = better(found[kind].get(name, number), number)
    largest = {name: max(found["max"][name], found["min"][name]) for name in found["max"]}
    largest |= {name: float("inf") for name, total in found["total"].items() if not np.isfinite(total)}
    for node in probe.graph.node:
        if node.op_type in SAME_VALUES and node.input[0] in largest:
            largest[node.output[0]] = largest[node.input[0]]
    return Ranges(largest, found["smallest"], found["sums"], answers)


def _with_probes(graph: onnx.GraphProto) -> list[tuple[str, str]]:
    """Give `graph` outputs KIND/NAME, float32 [], each computed right behind its tensor; (kind, name) of them all."""
    floats = float_tensors(graph) - {tensor.name for tensor in graph.initializer}
    divisors = {node.input[DENOMINATORS[node.op_type]] for node in graph.node if node.op_type in DENOMINATORS}
    wanted: list[tuple[str, str]] = []
    nodes: list[onnx.NodeProto] = []

    def reduce(kind: str, operator: str, name: str, source: str) -> None:
        nodes.append(onnx.helper.make_node(operator, [source], [f"{kind}/{name}"], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(f"{kind}/{name}", TensorProto.FLOAT, []))
        wanted.append((kind, name))

    def probe(name: str, moved: bool) -> None:
        if not moved:
            reduce("max", "ReduceMax", name, name)  # which may pass over a value that is not a number, as may the least
            reduce("min", "ReduceMin", name, name)
            reduce("total", "ReduceSum", name, name)
        if name in divisors:
            nodes.append(onnx.helper.make_node("Abs", [name], [f"smallest/{name}/abs"]))
            reduce("smallest", "ReduceMin", name, f"smallest/{name}/abs")

    for value in graph.input:
        if value.name in floats:
            probe(value.name, False)
    for node in graph.node:
        nodes.append(node)
        if node.op_type in SUM_OPS and node.input[0] in floats:
            inner = f"sums/{node.name}"
            nodes.append(onnx.helper.make_node("Abs", [node.input[0]], [f"{inner}/abs"]))
            nodes.append(onnx.helper.make_node("ReduceSum", [f"{inner}/abs", *node.input[1:]], [f"{inner}/sum"]))
            reduce("sums", "ReduceMax", node.name, f"{inner}/sum")
        for name in node.output:
            if name in floats:
                probe(name, node.op_type in SAME_VALUES and node.input[0] in floats)
    refill(graph, node=nodes)
    return wanted

"""How large the values in an fp32 graph become on real images (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dhox.export.half_precision.convert import float_tensors
from dhox.runtimes.onnxruntime_api import open_session

SUM_OPS = {"ReduceMean", "ReduceSum", "ReduceSumSquare"}
DENOMINATORS = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}  # operator -> the input that must not become 0


@dataclass(frozen=True)
class Ranges:
    """Over all images. `largest`: tensor -> max |x|. `smallest`: denominators -> min |x|. `sums`: node -> max sum |x|.

    A value that is not finite makes its tensor's `largest` infinite.
    """

    largest: dict[str, float]
    smallest: dict[str, float]
    sums: dict[str, float]


def measure_ranges(model: bytes, inputs: Sequence[np.ndarray]) -> Ranges:
    """Run an fp32 graph of dhox on batches as its input takes them. Only one number per tensor leaves the graph."""
    probe = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    graph = probe.graph
    floats = float_tensors(graph) - {tensor.name for tensor in graph.initializer}
    wanted: list[tuple[str, str]] = []
    nodes: list[onnx.NodeProto] = []

    def reduce(kind: str, operator: str, name: str, source: str) -> None:
        output = f"{kind}/{name}"
        nodes.append(onnx.helper.make_node("Abs", [source], [f"{output}/abs"]))
        inner = f"{output}/abs"
        if kind == "sums":
            axes = next(node.input[1:] for node in graph.node if node.name == name)
            inner = f"{output}/sum"
            nodes.append(onnx.helper.make_node("ReduceSum", [f"{output}/abs", *axes], [inner]))
        nodes.append(onnx.helper.make_node(operator, [inner], [output], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
        wanted.append((kind, name))

    for name in sorted(floats):
        reduce("largest", "ReduceMax", name, name)  # which may pass over a value that is not a number
        reduce("totals", "ReduceSum", name, name)
    for node in list(graph.node):
        if node.op_type in SUM_OPS and node.input[0] in floats:
            reduce("sums", "ReduceMax", node.name, node.input[0])
    divisors = {node.input[DENOMINATORS[node.op_type]] for node in graph.node if node.op_type in DENOMINATORS}
    for name in sorted(divisors & floats):
        reduce("smallest", "ReduceMin", name, name)
    graph.node.extend(nodes)

    session = open_session(probe.SerializeToString())
    found: dict[str, dict[str, float]] = {"largest": {}, "totals": {}, "smallest": {}, "sums": {}}
    for batch in inputs:
        values = session.run([f"{kind}/{name}" for kind, name in wanted], {"image": batch})
        for (kind, name), value in zip(wanted, values, strict=True):
            number = float(value) if np.isfinite(value) else float("inf")
            better = min if kind == "smallest" else max
            found[kind][name] = better(found[kind].get(name, number), number)
    broken = {name: float("inf") for name, total in found["totals"].items() if not np.isfinite(total)}
    return Ranges(found["largest"] | broken, found["smallest"], found["sums"])

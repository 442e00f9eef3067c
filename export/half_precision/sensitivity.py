"""What half precision in one node alone does to the probabilities (no torch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from dhox.export.half_precision.convert import FP32_INPUTS, float_tensors, refill
from dhox.progress import progress_bar
from dhox.runtimes.onnxruntime_api import open_session


def node_damage(model: bytes, nodes: Sequence[str], image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Largest difference of a probability for each of `nodes` of an fp32 graph, where it alone is fp16.

    Half means: what the node reads, its weights among it, and what it writes are rounded; it sums in fp32. `image`: a
    batch as the graph takes it; `reference`: its fp32 probs [N, C]. Infinite where an answer is not finite.
    """
    session = open_session(switched(model, nodes))
    answers = {}
    with progress_bar("Measuring nodes in half precision", len(nodes)) as advance:
        for name in nodes:
            switches = {f"half/{other}": np.array(other == name) for other in nodes}
            answers[name] = largest_difference(session.run(["probs"], {"image": image, **switches})[0], reference)
            advance(1)
    return answers


def largest_difference(probs: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference of a probability, infinite where one is not finite."""
    return float(abs(probs - reference).max()) if np.isfinite(probs).all() else float("inf")


def switched(model: bytes, names: Sequence[str]) -> bytes:
    """The fp32 graph with an input `half/NODE`, bool [], for each node in `names`: whether it rounds."""
    source = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    graph = source.graph
    floats, chosen = float_tensors(graph), set(names)
    nodes: list[onnx.NodeProto] = []

    def rounded(value: str, switch: str, output: str) -> None:
        down, up = f"{output}/down", f"{output}/up"
        nodes.append(onnx.helper.make_node("Cast", [value], [down], to=TensorProto.FLOAT16))
        nodes.append(onnx.helper.make_node("Cast", [down], [up], to=TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Where", [switch, up, value], [output]))

    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        switch = f"half/{node.name}"
        graph.input.append(onnx.helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        for position, name in enumerate(node.input):
            if name in floats and position not in FP32_INPUTS.get(node.op_type, ()):
                node.input[position] = f"{switch}/{position}"
                rounded(name, switch, node.input[position])
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in floats:
                node.output[position] = f"{switch}/exact/{position}"
                rounded(node.output[position], switch, name)
    refill(graph, node=nodes, value_info=[])
    content_bytes: bytes = source.SerializeToString()
    return content_bytes

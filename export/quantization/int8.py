"""fp32 ONNX bytes to int8: explicit Q/DQ where it pays, half precision elsewhere, and an accuracy gate (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx

from dhox.artefacts.manifest import Int8Conversion, Returned
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.export.half_precision.convert import convert
from dhox.export.quantization.qdq import WEIGHTED, calibrate, layers, quantise
from dhox.export.quantization.sensitivity import damages, fewest
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import BATCH, predict
from dhox.runtimes.tensors import Tensors

LITTLE_INT8 = 0.5  # share of multiply-adds below which int8 is not worth its name
MANY_PRODUCTS = 0.5  # share of a transformer's matrix products above which the warning is said


@dataclass(frozen=True)
class Int8:
    """An int8 file and how it came about."""

    content: bytes
    account: Int8Conversion


def to_int8(
    fp32: bytes,
    metadata: dict[str, Any],
    tensors: Tensors,
    calibration: np.ndarray,
    judge: np.ndarray,
    labels: np.ndarray | None,
    *,
    max_drop: float = 1.0,
    quantize_head: bool = False,
    kept: Mapping[str, str] | None = None,
    method: Literal["minmax", "percentile"] = "minmax",
) -> Int8:
    """Quantise a file of `export_onnx` after training, and return the worst layers to fp16 until the gate holds.

    `calibration`, `judge`: preprocessed pixels uint8 [N, H, W, 3]; `labels` int [N] of the judging images, or None.
    `max_drop`: points of top-1 (without labels: the percentage of answers) that may change for the worse against fp32
    on the judging images. `kept`: nodes that fp16 conversion keeps in fp32; they are never quantised. `method`: one of
    `qdq.METHODS`. The file has opset 19, the first with half-precision scales, and IR 10.

    Raises DhoxError without images or layers, UsageError for a negative `max_drop`, and GateFailedError where no layer
    is left in int8 before the gate holds.
    """
    if max_drop < 0:
        raise UsageError(f"An accuracy drop of {max_drop:g} points is a gain.", "Allow 0 or more.")
    if not len(judge):
        raise DhoxError("int8 needs images to judge it by, and there are none.", "Give DATA with validation images.")
    kept = kept or {}
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(fp32))
    ops = {node.name: node.op_type for node in layers(model.graph, quantize_head) if node.name not in kept}
    if not ops:
        raise DhoxError("This student has no layer that int8 could take.", "Export without --int8.")
    ranges = calibrate(model, list(tensors.batches(calibration, BATCH)), method)
    expected = predict(OnnxSession(fp32), tensors, judge, "fp32 answers")

    def drop_of(content: bytes, progress: str) -> float:
        return lost_points(predict(OnnxSession(content), tensors, judge, progress), expected, labels)

    def quantised_but(returned: Sequence[str]) -> bytes:
        chosen = [name for name in ops if name not in set(returned)]
        return quantise(model, ranges, chosen).SerializeToString()

    # The search judges with an fp32 rest, which is several times faster on a CPU; the file itself is judged at the end.
    damage: dict[str, float] = {}
    count, step = 0, 1
    if drop_of(quantised_but([]), "int8 answers") > max_drop:
        damage = damages(model, ranges, list(ops), tensors, judge, expected)
        order = _worst_first(damage)
        count = fewest(len(ops), lambda k: drop_of(quantised_but(order[:k]), f"int8 but the worst {k}") <= max_drop)
    while count < len(ops):
        returned = _worst_first(damage)[:count]
        content = convert(quantised_but(returned), metadata, kept)
        drop = drop_of(content, "int8 file")
        if drop <= max_drop:
            quantised = [name for name in ops if name not in returned]
            costs = _multiply_adds(model)
            share = sum(costs[name] for name in quantised) / max(sum(costs.values()), 1)
            back = [Returned(name, ops[name], damage[name]) for name in returned]
            account = Int8Conversion(
                quantised, back, share, method, len(calibration), len(expected), labels is not None, max_drop, drop,
                advice(model, share, costs),
            )  # fmt: skip
            return Int8(content, account)
        damage = damage or damages(model, ranges, list(ops), tensors, judge, expected)
        count, step = count + step, 2 * step
    what = "points of top-1" if labels is not None else "% of the answers"
    raise GateFailedError(
        f"int8 loses more than {max_drop:g} {what} against fp32 on {len(expected)} images, whichever of the "
        f"{len(ops)} layers stay int8.",
        "Use --fp16 instead of --int8, or allow more with --max-accuracy-drop.",
    )


def _worst_first(damage: Mapping[str, float]) -> list[str]:
    """Names by falling damage; ties in the graph's order."""
    return sorted(damage, key=lambda name: -damage[name])


def lost_points(probs: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> float:
    """Points of top-1 that probs [N, C] lose against `expected`, or without labels the percentage that differs.

    100 where an answer is not finite.
    """
    if not np.isfinite(probs).all():
        return 100.0
    new, old = probs.argmax(-1), expected.argmax(-1)
    if labels is None:
        return float(100 * (new != old).mean())
    return float(100 * ((old == labels).mean() - (new == labels).mean()))


def _multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds per image of every convolution and matrix product; 0 where a shape is not known."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.ClearField("value_info")
    for value in [*single.graph.input, *single.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    costs = {}
    for node in graph.node:
        if node.op_type in WEIGHTED:
            second = shapes.get(node.input[1], [0])
            # What one output value sums over: a filter without its output channels, or the rows of a matrix.
            length = prod(second[1:]) if node.op_type == "Conv" else shapes.get(node.input[0], [0])[-1]
            costs[node.name] = prod(shapes.get(node.output[0], [0])) * length
    return costs


def advice(model: onnx.ModelProto, share: float, costs: Mapping[str, int]) -> str | None:
    """Why int8 may not pay for this graph, or None."""
    constants = {tensor.name for tensor in model.graph.initializer}
    attention = any(node.op_type == "MatMul" and not constants & set(node.input) for node in model.graph.node)
    products = sum(costs[node.name] for node in model.graph.node if node.op_type in {"MatMul", "Gemm"})
    part = products / max(sum(costs.values()), 1)
    if attention and part > MANY_PRODUCTS:
        return (
            f"{100 * part:.0f} % of this student's work is a transformer's matrix products: int8 is often slower "
            "than fp16 there (attention itself stays fp16). Compare both files with dhox bench on the device."
        )
    if share < LITTLE_INT8:
        return (
            f"Only {100 * share:.0f} % of the multiply-adds are int8: expect little speed over fp16. Compare both "
            "files with dhox bench on the device."
        )
    return None

"""fp32 ONNX to fp16 by what real images show: which nodes must stay fp32, and why (no torch).

In order: what is always kept (`half.fp32_nodes`), what overflows or vanishes on the images, the last linear layer where
rounded logits would cost, and then, if the probabilities still differ too much, the nodes that do the most damage.
Differences are measured on the emulated graph (`emulated`), which rounds as a device does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from dhox.artefacts.manifest import HalfConversion, Kept
from dhox.errors import DhoxError
from dhox.export.graphs.onnx_contract import OPSET
from dhox.export.half_precision.convert import (
    LARGEST,
    LINEAR_OPS,
    TAIL,
    Converted,
    cast_tensors,
    convert,
    float_tensors,
    fp32_nodes,
    with_bridges,
)
from dhox.export.half_precision.emulated import MOVING_OPS, emulated, typed_graph
from dhox.export.half_precision.ranges import Ranges, measure_ranges
from dhox.export.half_precision.sensitivity import Damage, largest_difference
from dhox.export.quantization.sensitivity import fewest
from dhox.models.golden import TOLERANCE
from dhox.progress import working
from dhox.runtimes.onnxruntime_api import open_session
from dhox.runtimes.tensors import Tensors

CALIBRATION_IMAGES = 64
BATCH = 16
MARGIN = 4.0  # other images may give values this many times larger
AIM = 0.5  # the share of the tolerance that these images may use up: others differ more
LOGIT_SHARE = 0.25  # the share of the tolerance that rounded logits may use up
WORST_IMAGES = 8  # on which the damage of single nodes is measured
SMALLEST = 2.0**-14  # smaller values lose bits
ROUNDING = 2.0**-11  # largest relative error of rounding a value
PRODUCT_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def calibration_inputs(pixels: np.ndarray, tensors: Tensors) -> list[np.ndarray]:
    """CALIBRATION_IMAGES spread evenly over `pixels` (uint8 [N, H, W, 3]) as batches of a graph's input."""
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), CALIBRATION_IMAGES)).astype(int)]
    return list(tensors.batches(chosen, BATCH))


def to_half(fp32: bytes, metadata: dict[str, Any], inputs: Sequence[np.ndarray]) -> Converted:
    """Convert an fp32 file of dhox by what it computes on `inputs`: batches of real images as its input takes them.

    Raises DhoxError where the fp32 graph itself is not finite, or where nothing could be half.
    """
    graph = typed_graph(fp32).graph
    ranges = measure_ranges(fp32, inputs)
    _check_finite(graph, ranges)
    reference, tolerance = ranges.probs, TOLERANCE["fp16"]
    kept = joined(graph, reasons(graph, ranges, tolerance))
    content, differences = attempt(fp32, metadata, kept, inputs, reference)
    if max(differences) > AIM * tolerance:
        worst = np.argsort(differences)[::-1][:WORST_IMAGES]
        kept = _mended(fp32, metadata, kept, inputs, reference, worst)
        content, differences = attempt(fp32, metadata, kept, inputs, reference)

    return Converted(content, OPSET, account(graph, kept, ranges, max(differences), sum(map(len, inputs))))


def account(graph: onnx.GraphProto, kept: dict[str, str], ranges: Ranges, difference: float, n: int) -> HalfConversion:
    """Every fp32 node in the order of the graph, and the share of products that are half. Raises DhoxError for none."""
    full = with_bridges(graph, {*fp32_nodes(graph), *kept})
    why = kept | fp32_nodes(graph)
    products = [node.name for node in graph.node if node.op_type in PRODUCT_OPS]
    share = sum(name not in full for name in products) / len(products)
    if not share:
        raise DhoxError(
            f"Every convolution and matrix product would stay fp32 ({products[0]}: {why[products[0]]}), so the "
            "fp16 file would not be one.",
            "Export without --fp16.",
        )
    floats = float_tensors(graph)
    listed = [
        Kept(
            node.name,
            node.op_type,
            why.get(node.name, "it converts by itself"),
            node.name not in kept,
            max((ranges.largest[name] for name in node.output if name in ranges.largest), default=None),
        )
        for node in graph.node
        if node.name in full and floats & {*node.input, *node.output}
    ]
    return HalfConversion(listed, share, difference, n)


def attempt(
    fp32: bytes, metadata: dict[str, Any], kept: dict[str, str], inputs: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
) -> tuple[bytes, list[float]]:  # fmt: skip
    """The converted file, and its largest difference of a probability on each image, emulated."""
    content = convert(fp32, metadata, kept)
    session = open_session(emulated(content))
    differences: list[float] = []
    for batch, expected in zip(inputs, reference, strict=True):
        probs = session.run(["probs"], {"image": batch})[0]
        differences += [largest_difference(*pair) for pair in zip(probs, expected, strict=True)]
    return content, differences


def _check_finite(graph: onnx.GraphProto, ranges: Ranges) -> None:
    """Raise DhoxError, naming the first node, where the fp32 graph gives values that are not finite."""
    for node in graph.node:
        if any(not np.isfinite(ranges.largest.get(name, 0.0)) for name in node.output):
            raise DhoxError(
                f"The fp32 graph itself gives values that are not finite, first at {node.name} ({node.op_type}).",
                "Check the student's weights and normalisation statistics, or train it again.",
            )


def reasons(graph: onnx.GraphProto, ranges: Ranges, tolerance: float) -> dict[str, str]:
    """Nodes that cannot be half precision on these images, and why."""
    weights = {
        tensor.name: float(abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    always = fp32_nodes(graph)
    tail = [node for node in graph.node if always.get(node.name) == TAIL]
    tail_inputs = {name for node in tail for name in node.input}
    logits = max((ranges.largest[node.input[0]] for node in tail if node.op_type == "Softmax"), default=0.0)
    shift = logits * ROUNDING / 2  # a softmax moves by at most half of what its logits move by
    found = {}
    for node in graph.node:
        if node.name in always:
            continue
        values = [ranges.largest[name] for name in [*node.input, *node.output] if name in ranges.largest]
        inside = [weights[name] for name in node.input if name in weights]
        divisors = [ranges.smallest[name] for name in [*node.input, *node.output] if name in ranges.smallest]
        largest = max(values, default=0.0)
        if max(inside, default=0.0) > LARGEST:
            found[node.name] = f"weights up to {max(inside):.3g}, beyond fp16"
        elif largest > LARGEST / MARGIN:
            found[node.name] = f"values up to {largest:.3g}, too near to fp16's {LARGEST:g}"
        elif ranges.sums.get(node.name, 0.0) > LARGEST:
            found[node.name] = f"sums up to {ranges.sums[node.name]:.3g}, beyond fp16"
        elif min(divisors, default=1.0) < SMALLEST:
            found[node.name] = f"a divisor or root of {min(divisors):.3g}, where fp16 loses bits"
        elif node.op_type in LINEAR_OPS and set(node.output) & tail_inputs and shift > LOGIT_SHARE * tolerance:
            found[node.name] = f"logits up to {logits:.3g}: rounded, they move a probability by up to {shift:.2g}"
    return found


def joined(graph: onnx.GraphProto, kept: dict[str, str]) -> dict[str, str]:
    """`kept` with the cheap nodes behind an fp32 node and before fp32 nodes alone, unless that needs more Casts."""
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)

    def source(name: str) -> str:
        """The node that computed a tensor, not one that only moved it."""
        while maker[name].op_type in MOVING_OPS and maker[name].input[0] in maker:
            name = maker[name].input[0]
        return str(maker[name].name)

    full = {*fp32_nodes(graph), *kept}
    casts = len(cast_tensors(graph, full))
    added = {}
    for node in reversed(graph.node):
        users = {user for name in node.output for user in readers.get(name, ())}
        from_full = full & {source(name) for name in node.input if name in maker}
        if node.name in full or node.op_type in PRODUCT_OPS or not from_full or not users <= full:
            continue
        then = len(cast_tensors(graph, full | {node.name}))
        if then <= casts:
            full, casts = full | {node.name}, then
            added[node.name] = "between fp32 nodes"
    return kept | added


def _mended(
    fp32: bytes, metadata: dict[str, Any], kept: dict[str, str], inputs: Sequence[np.ndarray],
    reference: Sequence[np.ndarray], worst: np.ndarray,
) -> dict[str, str]:  # fmt: skip
    """`kept` with the fewest of the most harmful nodes that bring the difference on all images to AIM of the tolerance.

    The damage of each node is measured alone, on the images numbered `worst`.
    """
    graph = typed_graph(fp32).graph
    images, expected = np.concatenate(inputs)[worst], np.concatenate(reference)[worst]
    full = with_bridges(graph, {*fp32_nodes(graph), *kept})
    candidates = [node.name for node in graph.node if node.name not in full and node.op_type not in MOVING_OPS]
    worst_first = Damage(fp32, candidates, images, expected).worst_first()
    order: list[tuple[str, float]] = []

    def with_worst(count: int) -> dict[str, str]:
        order.extend(islice(worst_first, max(count - len(order), 0)))
        back = {name: f"alone it moves a probability by {damage:.2g}" for name, damage in order[:count]}
        return joined(graph, kept | back)

    def fits(count: int) -> bool:
        return max(attempt(fp32, metadata, with_worst(count), inputs, reference)[1]) <= AIM * TOLERANCE["fp16"]

    with working("Measuring nodes in half precision"):
        return with_worst(fewest(len(candidates), fits))

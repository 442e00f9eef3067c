"""int8 by ONNX Runtime's quantiser: ranges measured once, explicit Q/DQ written for any choice of layers.

Settings and places are those that TensorRT fuses. Signed and symmetric, weights per output channel and stored as int8,
biases in float. Q/DQ stands at the inputs of weighted layers and on the shortcut of a residual sum, never between a
convolution and what is fused behind it (activation, sum), nor on normalisation, attention's products of activations and
the softmax tail. (Asymmetric ranges and int32 biases, ONNX Runtime's defaults, do not parse in TensorRT.)
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dhox.errors import DhoxError, require
from dhox.progress import progress_bar

WEIGHTED = ("Conv", "Gemm", "MatMul")
METHODS = ("minmax", "percentile")
PERCENTILE = 99.999  # of the absolute values of a tensor

Ranges = Mapping[str, Any]  # tensor name -> its TensorData


class Batches:
    """One batch as the calibrator reads it."""

    def __init__(self, batch: np.ndarray) -> None:
        self.batch: np.ndarray | None = batch

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The batch, then None."""
        batch, self.batch = self.batch, None
        return None if batch is None else {"image": batch}


def layers(graph: onnx.GraphProto, quantize_head: bool) -> list[onnx.NodeProto]:
    """The nodes that int8 can speed up, in order: Conv, Gemm and MatMul with a constant weight.

    Without `quantize_head` the linear layers that lead to `probs` through no other weighted layer are left out.
    """
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    found = [node for node in graph.node if node.op_type in WEIGHTED and node.input[1] in weights]
    if quantize_head:
        return found
    tail, head = {"probs"}, set()
    for node in reversed(graph.node):
        if tail & set(node.output):
            if node.op_type in WEIGHTED:
                head.add(node.name)
            else:
                tail |= set(node.input)
    return [node for node in found if node.name not in head]


def shortcuts(graph: onnx.GraphProto, quantised: set[str]) -> list[str]:
    """The tensors that meet a quantised convolution's output in a sum: with Q/DQ there TensorRT fuses both into one.

    Where both sides come from a convolution, the shortcut is the side with fewer layers before it.
    """
    depth: dict[str, int] = {}
    producer: dict[str, onnx.NodeProto] = {}
    constants = {tensor.name for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Add" and not constants & set(node.input):
            sides = sorted(node.input, key=lambda name: depth.get(name, 0))
            if sides[1] in producer and producer[sides[1]].op_type == "Conv" and producer[sides[1]].name in quantised:
                found.append(sides[0])
        for name in node.output:
            depth[name] = 1 + max((depth.get(source, 0) for source in node.input), default=0)
            producer[name] = node
    return list(dict.fromkeys(found))


def calibrate(model: onnx.ModelProto, batches: Sequence[np.ndarray], method: str) -> Ranges:
    """Ranges of the activations on `batches`, each an input of the graph.

    `method`: minmax, or percentile (PERCENTILE of the absolute values; where a few values lie far out). Entropy is not
    offered: it lost 3 points of EfficientNet-Lite0's top-1 where these lost none.
    """
    require("onnxruntime", "cpu")
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    if not batches or not all(len(batch) for batch in batches):
        raise DhoxError(
            "int8 needs images to measure ranges on, and there are none.", "Give DATA with unlabelled images."
        )
    kinds = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": PERCENTILE}),
    }
    kind, options = kinds[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path, [*WEIGHTED, "Add"], str(path.with_name("augmented.onnx")), kind, extra_options=options
        )
        with progress_bar("Measuring ranges", len(batches)) as advance:
            for batch in batches:
                calibrator.collect_data(Batches(batch))
                advance(1)
        ranges: Ranges = calibrator.compute_data().data
    return ranges


def quantise(model: onnx.ModelProto, ranges: Ranges, names: Sequence[str]) -> onnx.ModelProto:
    """The fp32 graph with Q/DQ for the nodes `names`, at least one; the rest stays fp32, as the opset stays 18."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    assert names, "the quantiser takes an empty list for all nodes"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy, True, False, QuantType.QInt8, QuantType.QInt8, dict(ranges), list(names), [], list(WEIGHTED),
        {
            "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True, "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
        },
    )  # fmt: skip
    for name in shortcuts(model.graph, set(names)):
        quantizer.quantize_activation_tensor(name)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    return quantised

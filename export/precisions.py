"""One fp32 graph in the precisions that were asked for, converted on real images (no torch)."""

from __future__ import annotations

from typing import Any

from dhox.artefacts.manifest import HalfConversion, Precision
from dhox.export.check_images import CheckImages, load_pixels
from dhox.export.graphs.onnx_contract import OPSET
from dhox.export.half_precision.calibrated import calibration_inputs, to_half
from dhox.export.half_precision.convert import Converted
from dhox.export.options import Precisions
from dhox.export.quantization.int8 import Int8Choices, Judges, to_int8
from dhox.runtimes.tensors import Tensors

INT8_MAX_DROP = 2.0  # points of top-1 that int8 may lose by the 95 % bound, without --max-accuracy-drop


def converted(
    fp32: bytes, metadata: dict[str, Any], wanted: Precisions, images: CheckImages, tensors: Tensors,
    max_drop: float | None,
) -> dict[Precision, Converted]:  # fmt: skip
    """The fp32 graph and, by name, what `wanted` asks for besides.

    Ranges are measured on `images.calibration`; int8 returns layers to fp16 until it loses at most `max_drop` points of
    top-1 to fp32 on `images.tuning`. Raises DhoxError where a conversion cannot be had, GateFailedError where int8
    cannot be good enough.
    """
    models: dict[Precision, Converted] = {"fp32": Converted(fp32, OPSET, None)}
    if not wanted.wanted:
        return models
    pixels = load_pixels(images.calibration, tensors.preprocessing, "Reading calibration images")
    half = to_half(fp32, metadata, calibration_inputs(pixels, tensors))
    assert isinstance(half.account, HalfConversion)
    if wanted.fp16:
        models["fp16"] = half
    if wanted.int8:
        judges = load_pixels(images.tuning, tensors.preprocessing, "Reading images that int8 is judged by")
        choices = Int8Choices(
            INT8_MAX_DROP if max_drop is None else max_drop, wanted.quantize_head,
            {node.node: node.why for node in half.account.kept}, wanted.int8_ranges,
        )  # fmt: skip
        models["int8"] = to_int8(fp32, metadata, tensors, pixels, Judges(judges, images.tuning_labels), choices)
    return models

"""One fp32 graph in the precisions that were asked for, converted on real images (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dhox.artefacts.common import Preprocessing
from dhox.export.graphs.onnx_contract import OPSET
from dhox.export.half_precision.calibrated import calibration_inputs, to_half
from dhox.export.half_precision.convert import QUANTISED_OPSET
from dhox.export.parity import CheckImages, load_pixels
from dhox.export.quantization.int8 import to_int8
from dhox.runtimes.tensors import Tensors

INT8_MAX_DROP = 1.0  # points of top-1 that int8 may lose where --max-accuracy-drop does not say


@dataclass(frozen=True)
class Model:
    """A written graph. `conversion`: how it came about, as plain values; None for fp32."""

    content: bytes
    opset: int
    conversion: dict[str, Any] | None


def converted(
    fp32: bytes,
    metadata: dict[str, Any],
    wanted: list[str],
    images: CheckImages,
    preprocessing: Preprocessing,
    input_kind: str,
    *,
    int8_ranges: str,
    quantize_head: bool,
    max_drop: float | None,
) -> dict[str, Model]:
    """The fp32 graph and, by name, what `wanted` (of fp16 and int8) asks for besides.

    Ranges are measured on `images.calibration`; int8 returns layers to fp16 until it loses at most `max_drop` points of
    top-1 to fp32 on `images.tuning`. `quantize_head`: int8 takes the last linear layer too. Raises DhoxError where a
    conversion cannot be had, GateFailedError where int8 cannot be good enough.
    """
    models = {"fp32": Model(fp32, OPSET, None)}
    if not wanted:
        return models
    pixels = load_pixels(images.calibration, preprocessing, "Reading calibration images")
    inputs = calibration_inputs(pixels, input_kind, preprocessing)
    if "fp16" in wanted:
        half = to_half(fp32, metadata, inputs)
        models["fp16"] = Model(half.content, OPSET, half.to_json())
    if "int8" in wanted:
        fp16 = models["fp16"].conversion if "fp16" in models else to_half(fp32, metadata, inputs).to_json()
        assert fp16 is not None
        judges = load_pixels(images.tuning, preprocessing, "Reading images that int8 is judged by")
        int8 = to_int8(
            fp32, metadata, Tensors(preprocessing, input_kind), pixels, judges, images.tuning_labels,
            max_drop=INT8_MAX_DROP if max_drop is None else max_drop, quantize_head=quantize_head,
            method=int8_ranges,
            kept={entry["node"]: entry["why"] for entry in fp16["kept"]},
        )  # fmt: skip
        models["int8"] = Model(int8.content, QUANTISED_OPSET, int8.to_json())
    return models

"""torch module to ONNX bytes; equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from typing import Any

import torch

from dhox.errors import DhoxError
from dhox.export.graphs.graph import Deployable
from dhox.export.graphs.known_students import CHOOSE_ANOTHER
from dhox.export.graphs.onnx_contract import OPSET, finish
from dhox.export.graphs.rewrite import optimise
from dhox.export.graphs.simplify import simplify

LARGEST_BATCH = 4096


def export_onnx(module: Deployable, image_size: int, metadata: dict[str, Any], another: str = CHOOSE_ANOTHER) -> bytes:
    """Export with torch's dynamo exporter: opset 18, IR 10, dynamic batch, input `image`, output `probs`.

    `metadata`: written as JSON texts into the model's metadata; all that torch writes there (stack traces with paths)
    is stripped. `another`: the advice where this student cannot be exported. Raises DhoxError for a student that torch
    cannot trace, or that needs an operator which opset 18 lacks.
    """
    if module.input_kind == "uint8-nhwc":
        example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(2, 3, image_size, image_size)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    try:
        with quiet():
            program = torch.onnx.export(
                module, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: batch},),
                input_names=["image"], output_names=["probs"], external_data=False, verbose=False, optimize=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as err:
        raise DhoxError(_exporter_words(err), another) from err
    assert program is not None
    optimise(program.model)
    simplify(program.model)
    return finish(program.model_proto, metadata, another=another)


def _exporter_words(err: BaseException) -> str:
    """What torch's exporter failed at, from the innermost cause: the operator without ONNX form, or its first words."""
    while err.__cause__ is not None:
        err = err.__cause__
    text = " ".join(str(err).split())
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if operator:
        return f"The student needs torch's operator {operator[1]}, which has no ONNX form in opset {OPSET}."
    return f"torch cannot export this student to ONNX: {text[:300]}."


@contextlib.contextmanager
def quiet() -> Any:
    """Keep the exporter's progress text and warnings off the terminal; its exceptions pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

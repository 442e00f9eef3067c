"""torch module to ONNX bytes; equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from typing import Any

import onnx
import torch

from dhox.errors import DhoxError
from dhox.export.graph import Deployable
from dhox.export.simplify import simplify

OPSET = 18
IR_VERSION = 10
LARGEST_BATCH = 4096


def export_onnx(module: Deployable, image_size: int, metadata: dict[str, Any]) -> bytes:
    """Export with torch's dynamo exporter: opset 18, IR 10, dynamic batch, input `image`, output `probs`.

    `metadata`: written as JSON texts into the model's metadata; all that torch writes there (stack traces with paths)
    is stripped. Raises DhoxError for a student that torch cannot trace, or that needs an operator which opset 18 lacks.
    """
    if module.uint8_input:
        example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(2, 3, image_size, image_size)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    try:
        with quiet():
            program = torch.onnx.export(
                module, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: batch},),
                input_names=["image"], output_names=["probs"], external_data=False, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as err:
        raise DhoxError(f"{exporter_words(err)} Choose another student.") from err
    assert program is not None
    simplify(program.model)
    return finish(program.model_proto, metadata)


def exporter_words(err: BaseException) -> str:
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


def finish(model: onnx.ModelProto, metadata: dict[str, Any]) -> bytes:
    """Strip what others wrote, write dhox's metadata, check the contract of the file, serialise deterministically."""
    graph = model.graph
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for owner in (graph, model):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    graph.name = "dhox"
    model.producer_name, model.producer_version = "dhox", ""
    model.ir_version = IR_VERSION
    for key in sorted(metadata):
        model.metadata_props.add(key=f"dhox.{key}", value=json.dumps(metadata[key], ensure_ascii=False))
    check_operators(model)
    onnx.checker.check_model(model, full_check=True)
    check_contract(model)
    return model.SerializeToString(deterministic=True)


def check_operators(model: onnx.ModelProto) -> None:
    """Raise DhoxError for an operator that opset 18 lacks, naming it and the first opset that has it.

    torch's exporter writes such operators as they are and calls the file opset 18 all the same.
    """
    for node in model.graph.node:
        try:
            onnx.defs.get_schema(node.op_type, OPSET, node.domain)
        except onnx.defs.SchemaError:
            every = onnx.defs.get_all_schemas_with_history()
            versions = [each.since_version for each in every if (each.name, each.domain) == (node.op_type, node.domain)]
            known = f"ONNX has it since opset {min(versions)}" if versions else "ONNX has it in no opset"
            raise DhoxError(
                f"The student needs the operator {node.op_type}, which opset {OPSET} lacks ({known}). dhox writes "
                f"opset {OPSET}, which every supported TensorRT reads. Choose another student."
            ) from None


def check_contract(model: onnx.ModelProto) -> None:
    """Assert opset 18, IR 10, one input with a named batch, one float32 output `probs`, no foreign domain."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    assert opsets.get("") == OPSET, opsets
    assert model.ir_version == IR_VERSION, model.ir_version
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["probs"]
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert not {node.domain for node in model.graph.node} - {""}

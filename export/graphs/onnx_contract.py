"""What every ONNX file of dhox is: its contract, checked, and its bytes, deterministic (no torch)."""

from __future__ import annotations

import json
from typing import Any

import onnx

from dhox.artefacts.embeddings import EMBEDDING
from dhox.errors import DhoxError
from dhox.export.graphs.known_students import CHOOSE_ANOTHER

OPSET = 18
IR_VERSION = 10


def finish(
    model: onnx.ModelProto, metadata: dict[str, Any], opset: int = OPSET, another: str = CHOOSE_ANOTHER
) -> bytes:
    """Strip what others wrote, write dhox's metadata, check the contract of the file, serialise deterministically.

    `another`: the advice of the DhoxError for an operator that the opset lacks.
    """
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
    for entry in [entry for entry in model.opset_import if entry.domain]:
        model.opset_import.remove(entry)
    for key in sorted(metadata):
        model.metadata_props.add(key=f"dhox.{key}", value=json.dumps(metadata[key], ensure_ascii=False))
    _check_operators(model, opset, another)
    onnx.checker.check_model(model, full_check=True)
    check_contract(model, opset)
    return model.SerializeToString(deterministic=True)


def _check_operators(model: onnx.ModelProto, opset: int, another: str) -> None:
    """Raise DhoxError for an operator that the opset lacks, naming it and the first opset that has it.

    torch's exporter writes such operators as they are and calls the file opset 18 all the same.
    """
    for node in model.graph.node:
        try:
            onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            every = onnx.defs.get_all_schemas_with_history()
            versions = [each.since_version for each in every if (each.name, each.domain) == (node.op_type, node.domain)]
            known = f"ONNX has it since opset {min(versions)}" if versions else "ONNX has it in no opset"
            raise DhoxError(
                f"The student needs the operator {node.op_type}, which opset {opset} lacks ({known}). dhox writes "
                f"opset {OPSET}, the one that every supported TensorRT and ONNX Runtime reads.",
                another,
            ) from None


def check_contract(model: onnx.ModelProto, opset: int = OPSET) -> None:
    """Assert the opset, IR 10, one input with a named batch, float32 outputs `probs` and perhaps `embedding`, and no
    foreign domain."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    assert opsets.get("") == opset, opsets
    assert model.ir_version == IR_VERSION, model.ir_version
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] in (["probs"], ["probs", EMBEDDING])
    for value in (model.graph.input[0], *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert not {node.domain for node in model.graph.node} - {""}

"""A second output of written graphs: the features that the head reads, for `dhox drift` (no torch).

It is added behind every conversion, so that fp16 and int8 files compute what they would without it.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from dhox.artefacts.embeddings import EMBEDDING
from dhox.artefacts.manifest import Fold
from dhox.export.graphs.onnx_contract import finish

LINEAR_OPS = ("Gemm", "MatMul")


def features_of(fp32: bytes, fold: Fold, cosine: bool) -> str:
    """The name of the tensor [B, d] that the head of an fp32 graph reads: the backbone's own features z, also where the
    head reads [z, z/|z|] (a linear fold of a `cosine` KD head)."""
    graph = onnx.load_from_string(fp32).graph
    weight = "head.ce_head.weight" if fold.rule == "heads" else "head.linear.weight"
    source = next(node for node in graph.node if node.op_type in LINEAR_OPS and weight in node.input).input[0]
    if fold.rule == "linear" and cosine and fold.z_norm is None:
        source = next(node for node in graph.node if source in node.output).input[0]
    return str(source)


def with_embedding(content: bytes, features: str, width: int, metadata: dict[str, Any], opset: int) -> bytes:
    """The same file with the output EMBEDDING, float32 [batch, `width`], beside its probabilities."""
    model = onnx.load_from_string(content)
    model.graph.node.append(
        helper.make_node("Cast", [features], [EMBEDDING], f"node_{EMBEDDING}", to=TensorProto.FLOAT)
    )
    model.graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width]))
    del model.metadata_props[:]
    return finish(model, metadata, opset)

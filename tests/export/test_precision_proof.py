"""Precision proofs, on what real inspectors and the real TensorRT-RTX compiler say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from recorded_inspector import TENSORRT_8_FP16, TENSORRT_10_INT8, TENSORRT_10_NAMES_ONLY, synthetic_dynamic
from refusals import refuses

from dhox.artefacts.engine import CompiledPrecision, EngineOptions, Products
from dhox.errors import GateFailedError
from dhox.export.engines.compile_engine import Compiled, compile_onnx
from dhox.export.engines.precision_proof import (
    check_promise,
    compiled_precision,
    layer_precision,
    layers_of_inspector,
    layers_of_log,
    onnx_nodes,
    tensor_precision,
)
from dhox.runtimes.tensorrt_api import import_tensorrt, message_logger

pytest.importorskip("tensorrt_rtx")

ANY = EngineOptions(1, 2, 4, None, False, False, None)
PROMISE = "export.engines.precision_proof.check_promise"


def graph(kind: str) -> onnx.ModelProto:
    """uint8 image -> Conv -> mean -> MatMul -> probs, the two products in fp32, fp16, bf16 or int8 (by Q/DQ).

    `half conv` has an fp16 convolution and an fp32 matrix product.
    """
    number = {"fp16": TensorProto.FLOAT16, "half conv": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(
        kind, TensorProto.FLOAT
    )
    last = TensorProto.FLOAT if kind == "half conv" else number
    random = np.random.default_rng(0)
    conv = random.normal(size=(8, 3, 3, 3)).astype(np.float32)
    product = random.normal(size=(8, 4)).astype(np.float32)
    nodes, constants = [], [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")]

    def weights(name: str, values: np.ndarray, to: int) -> str:
        if kind == "int8":
            scale = np.float32(abs(values).max() / 127)
            constants.extend(
                [
                    numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_q"),
                    numpy_helper.from_array(scale, f"{name}_scale"),
                    numpy_helper.from_array(np.int8(0), f"{name}_zero"),
                ]
            )
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [name], f"{name}_dq"
                )
            )
        else:
            constants.append(helper.make_tensor(name, to, values.shape, values.ravel().tolist()))
        return name

    def quantised(value: str) -> str:
        if kind != "int8":
            return value
        constants.extend(
            [
                numpy_helper.from_array(np.float32(0.05), f"{value}_scale"),
                numpy_helper.from_array(np.int8(0), f"{value}_zero"),
            ]
        )
        nodes.append(
            helper.make_node(
                "QuantizeLinear", [value, f"{value}_scale", f"{value}_zero"], [f"{value}_q"], f"{value}_quantise"
            )
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{value}_q", f"{value}_scale", f"{value}_zero"],
                [f"{value}_dq"],
                f"{value}_dequantise",
            )
        )
        return f"{value}_dq"

    nodes.append(helper.make_node("Cast", ["image"], ["float"], "to_float", to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Transpose", ["float"], ["nchw"], "to_nchw", perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Cast", ["nchw"], ["typed"], "to_type", to=number))
    nodes.append(
        helper.make_node("Conv", [quantised("typed"), weights("conv_w", conv, number)], ["c"], "the_conv", pads=[1] * 4)
    )
    nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
    nodes.append(helper.make_node("Cast", ["r"], ["retyped"], "to_last", to=last))
    nodes.append(helper.make_node("ReduceMean", ["retyped", "axes"], ["m"], "mean", keepdims=0))
    nodes.append(helper.make_node("MatMul", [quantised("m"), weights("mm_w", product, last)], ["y"], "the_matmul"))
    nodes.append(helper.make_node("Cast", ["y"], ["y32"], "to_fp32", to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Softmax", ["y32"], ["probs"], "softmax", axis=-1))
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", 4])],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def told(
    products: dict[str, int], share: float, differs: dict[str, tuple[str, str]] | None = None, hidden: list[str] | None = None
) -> CompiledPrecision:  # fmt: skip
    return CompiledPrecision(products=products, share=share, source="", differs=differs or {}, hidden=hidden or [])


def engine_precision(
    layers: list[dict[str, Any]], products: dict[str, str], precision: str
) -> CompiledPrecision | None:
    return compiled_precision(layers, products, precision, "")


def compiled(kind: str, precision: str, folder: Path) -> tuple[Compiled, CompiledPrecision | None]:
    """The graph through TensorRT-RTX, and what its log says of the engine."""
    (folder / "model.onnx").write_bytes(graph(kind).SerializeToString())
    trt = import_tensorrt("tensorrt_rtx")
    logger = message_logger(trt)
    result = compile_onnx(folder / "model.onnx", precision, trt, None, ANY, logger)
    return result, engine_precision(layers_of_log(logger.layers), result.products, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_real_compiler_keeps_what_the_graph_promises(precision: str, tmp_path: Path) -> None:
    result, engine = compiled(precision, precision, tmp_path)
    assert result.products == {"the_conv": precision, "the_matmul": precision}
    assert result.parsed.share == 1.0
    assert engine is not None
    assert (engine.share, engine.differs, engine.hidden) == (1.0, {}, [])
    check_promise(precision, result.parsed, engine)


@pytest.mark.parametrize(
    ("kind", "asked"), [("fp32", "fp16"), ("fp32", "bf16"), ("fp32", "int8"), ("half conv", "fp16"), ("fp16", "bf16")]
)
def test_a_file_of_another_precision_fails_before_it_is_built(kind: str, asked: str, tmp_path: Path) -> None:
    with refuses(asked, "50%" if kind == "half conv" else "0%", at=PROMISE, fix=asked, kind=GateFailedError):
        compiled(kind, asked, tmp_path)


def test_half_of_a_graph_is_counted(tmp_path: Path) -> None:
    result, engine = compiled("half conv", "fp32", tmp_path)
    assert result.products == {"the_conv": "fp16", "the_matmul": "fp32"}
    assert result.parsed.share == 0.5
    assert engine is not None
    assert engine.products == {"fp16": 1, "fp32": 1}


@pytest.mark.parametrize(
    ("precision", "graph_share", "engine_share", "kept"),
    [
        ("fp16", 1.0, 0.95, True), ("fp16", 1.0, 0.94, False), ("fp16", 0.51, 0.46, True), ("fp16", 0.5, 0.5, False),
        ("int8", 0.3, 0.25, True), ("int8", 0.3, 0.24, False), ("int8", 0.0, 0.0, False), ("fp32", 1.0, 0.5, False),
        ("fp16", 1.0, None, True), ("fp32", 0.0, 0.0, True),
    ],
)  # fmt: skip
def test_promise_boundaries(precision: str, graph_share: float, engine_share: float | None, kept: bool) -> None:
    network = Products(share=graph_share, products={precision: 3})
    engine = None if engine_share is None else Products(share=engine_share, products={"fp32": 1})
    if kept:
        check_promise(precision, network, engine)
    else:
        with refuses(
            precision, at=PROMISE, fix="--dla" if engine_share < graph_share else precision, kind=GateFailedError
        ):
            check_promise(precision, network, engine)


def test_recorded_layers_of_tensorrt_10() -> None:
    layers = layers_of_inspector(json.dumps(TENSORRT_10_INT8))
    assert onnx_nodes(layers[0]) == {f"resnetv15_stage1_{name}_fwd" for name in ("conv2", "batchnorm2", "relu1")}
    assert layer_precision(layers[0]) == "int8"
    found = engine_precision(layers, {"resnetv15_stage1_conv2_fwd": "int8"}, "int8")
    assert found == told({"int8": 1}, 1.0)


def test_recorded_layers_without_metadata_are_found_by_name() -> None:
    layers = layers_of_inspector(json.dumps(TENSORRT_8_FP16))
    found = engine_precision(layers, {"Conv_0": "fp16", "Conv_5": "fp16"}, "fp16")
    assert found == told({"fp16": 2}, 1.0)  # the Reformat of Conv_0 computes nothing
    assert engine_precision(layers, {"Conv_0": "fp32", "Conv_5": "fp16"}, "fp16") == told(
        {"fp16": 2}, 1.0, differs={"Conv_0": ("fp32", "fp16")}
    )
    silent = json.loads(json.dumps(TENSORRT_8_FP16).replace("Half", "Float"))
    found = engine_precision(silent["Layers"], {"Conv_0": "fp16", "Conv_5": "fp16"}, "fp16")
    assert found is not None
    assert found.share == 0.0


def test_an_engine_that_does_not_tell_is_not_proven() -> None:
    assert engine_precision(layers_of_inspector(json.dumps(TENSORRT_10_NAMES_ONLY)), {"a": "fp16"}, "fp16") is None
    assert engine_precision([], {"a": "fp16"}, "fp16") is None
    layers = layers_of_inspector(json.dumps(synthetic_dynamic))
    products = {"node_Conv_1": "fp16", "node_MatMul_2": "fp16"}
    assert engine_precision(layers, products, "fp16") == told({"fp16": 1}, 1.0, hidden=["node_MatMul_2"])
    assert engine_precision(layers, {**products, "gone": "fp16"}, "fp16") is None


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Half", "fp16"), ("Channel major FP16 format where channel % 8 == 0", "fp16"), ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"), ("Float", "fp32"), ("Row major linear FP32", "fp32"), ("Int8", "int8"),
        ("UInt8", None), ("Row major linear UINT8 format (kLINEAR)", None), ("Int32", None), ("FP8", None),
        ("N/A due to dynamic shapes", None), ("", None),
    ],
)  # fmt: skip
def test_type_names(text: str, precision: str | None) -> None:
    assert tensor_precision({"Datatype": text}) == tensor_precision({"Format/Datatype": text}) == precision

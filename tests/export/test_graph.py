"""Every exported graph against torch in ONNX Runtime, and against TensorRT-RTX's parser and builder."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import onnx
import pytest
import torch
from msgspec.structs import replace
from onnx_graphs import assert_runs_everywhere, pixels, torch_answer
from refusals import refuses
from tensorrt_rtx_build import build

from dhox.distill.students.student import create_backbone, preprocessing_of, with_heads
from dhox.export.folding.fold import inference_linear
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.convert import convert, fp32_nodes
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.tensors import INPUT_KINDS, Tensors

STUDENTS = {"test_resnet": 28, "mobilenetv2_050": 32}  # as they were trained; test_students has them as exported


def deployable(student: str, size: int, rule: str = "exact", kind: str = "uint8-nhwc") -> Deployable:
    """A student with random weights, and BatchNorm statistics that fit them (else fp16 overflows)."""
    torch.manual_seed(0)
    backbone, data = create_backbone(student, "none", size)
    model = with_heads(backbone, size, 5, two_heads=True)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 3, size, size))
    fold = replace(inference_linear(0.4, 0.5), rule=rule)
    return Deployable(model.backbone, folded_head(head_arrays(model), fold), preprocessing_of(data), kind).eval()


@pytest.mark.parametrize("student", ["test_resnet", pytest.param("mobilenetv2_050", marks=pytest.mark.slow)])
def test_onnx_equals_torch_and_tensorrt_builds_it(student: str) -> None:
    size = STUDENTS[student]
    module = deployable(student, size)
    fp32 = export_onnx(module, size, {})
    assert_runs_everywhere(module, fp32, size)


FAST = {("uint8-nhwc", "exact"), ("uint8-nhwc", "linear"), ("float-nchw", "heads"), ("float-nchw-255", "single")}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        pytest.param(*both, marks=[] if both in FAST else pytest.mark.slow)
        for both in product(INPUT_KINDS, ("single", "heads", "exact", "linear"))
    ],
)
def test_every_head_and_input_builds(rule: str, kind: str) -> None:
    module = deployable("test_resnet", 28, rule, kind)
    fp32 = export_onnx(module, 28, {})
    batch = Tensors(module_preprocessing(), kind).graph_input(pixels(28))
    assert abs(OnnxSession(fp32).infer(batch) - torch_answer(module, batch)).max() < 1e-4
    layers = [node.op_type for node in onnx.load_from_string(fp32).graph.node]
    assert layers.count("Gemm") == (2 if rule == "heads" else 1)
    for content in (fp32, convert(fp32, {}, {})):
        assert build(content).total() > 0


def module_preprocessing() -> object:
    return preprocessing_of(create_backbone("test_resnet", "none", 28)[1])


def test_all_inputs_give_the_same_answer() -> None:
    preprocessing = module_preprocessing()
    batch = pixels(28)
    answers = [
        torch_answer(deployable("test_resnet", 28, kind=kind), Tensors(preprocessing, kind).graph_input(batch))
        for kind in INPUT_KINDS
    ]
    assert max(abs(answer - answers[0]).max() for answer in answers) < 1e-5


def test_equal_input_gives_equal_bytes_and_no_trace_of_this_machine() -> None:
    metadata = {"classes": ["a", "<b>"], "fold": {"rule": "exact"}}
    first, second = (export_onnx(deployable("test_resnet", 28), 28, metadata) for _ in range(2))
    assert first == second
    assert convert(first, metadata, {}) == convert(second, metadata, {})
    for content in (first, convert(first, metadata, {})):
        model = onnx.load_from_string(content)
        assert {entry.key: entry.value for entry in model.metadata_props} == {
            "dhox.classes": '["a", "<b>"]', "dhox.fold": '{"rule": "exact"}',
        }  # fmt: skip
        assert b".py" not in content
        assert str(Path.cwd()).encode() not in content
        assert (model.ir_version, model.opset_import[0].version) == (10, 18)


def test_fp16_keeps_normalisation_and_tail_in_fp32_and_halves_the_rest() -> None:
    fp32 = export_onnx(deployable("test_resnet", 28), 28, {})
    graph = onnx.load_from_string(fp32).graph
    kept = {node.op_type for node in graph.node if node.name in fp32_nodes(graph)}
    assert {"Softmax", "ReduceSum", "Cast", "Transpose"} <= kept
    assert not kept & {"Conv", "Gemm", "Relu"}
    half = onnx.load_from_string(convert(fp32, {}, {})).graph
    types = {tensor.name: tensor.data_type for tensor in half.initializer}
    for node in half.node:
        if node.op_type in {"Conv", "Gemm"}:
            assert {types[name] for name in node.input[1:]} == {onnx.TensorProto.FLOAT16}
    assert [node.op_type for node in half.node].count("Cast") == 3  # uint8 to fp32, into fp16, back to fp32
    assert len(convert(fp32, {}, {})) < 0.55 * len(fp32)


def test_planes_from_0_to_255_are_normalised_in_fp32() -> None:
    half = onnx.load_from_string(
        convert(export_onnx(deployable("test_resnet", 28, kind="float-nchw-255"), 28, {}), {}, {})
    )
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    first, second = half.graph.node[:2]
    assert (first.op_type, second.op_type) == ("Sub", "Mul")
    assert {types[name] for node in (first, second) for name in node.input if name in types} == {onnx.TensorProto.FLOAT}
    assert [node.op_type for node in half.graph.node].count("Cast") == 2  # into fp16 behind them, and back


def test_a_weight_beyond_fp16_is_named() -> None:
    module = deployable("test_resnet", 28)
    with torch.no_grad():
        module.head.linear.weight[0, 0] = 1e6

    with refuses(
        "head.linear.weight", "node_linear", "1e+06", "fp16", at="export.half_precision.convert", fix="--fp16"
    ):
        convert(export_onnx(module, 28, {}), {}, {})

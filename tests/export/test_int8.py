"""int8 graphs: real images through ONNX Runtime, TensorRT-RTX's build, places of Q/DQ, and both sides of the gate."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from refusals import refuses
from tensorrt_rtx_build import build
from timm.layers import set_fused_attn

from dhox.artefacts.common import Preprocessing
from dhox.distill.students.student import create_backbone, preprocessing_of
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.convert import Converted
from dhox.export.quantization.int8 import Int8Choices, Judges, loss_of, to_int8
from dhox.export.quantization.qdq import METHODS, calibrate, layers, quantise, shortcuts
from dhox.export.quantization.sensitivity import fewest
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

DEMO = Path(__file__).parents[2] / "src/dhox/demo/fashion_mnist.npz"
STUDENTS = {"test_resnet": 28, "mobilenetv2_100": 32, "test_efficientnet": 32, "test_vit": 32}
CLASSES = 4
STEPS = 24
TO_INT8 = "export.quantization.int8.to_int8"


@cache
def images(size: int, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Real images uint8 [n, size, size, 3] of CLASSES classes, and their labels."""
    with np.load(DEMO) as archive:
        labels = archive[f"{split}_labels"]
        chosen = np.flatnonzero(labels < CLASSES)[:n]
        pixels = [Image.fromarray(image).convert("RGB") for image in archive[f"{split}_images"][chosen]]
    return np.stack([np.asarray(image.resize((size, size))) for image in pixels]), labels[chosen].astype(int)


@cache
def trained(student: str) -> bytes:
    """fp32 ONNX of a student after STEPS steps on real images, so that its answers mean something."""
    size = STUDENTS[student]
    torch.manual_seed(0)
    set_fused_attn(False)
    backbone, data = create_backbone(student, "none", size)
    pixels, labels = images(size, "train", 256)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    model = torch.nn.Sequential(backbone, torch.nn.LazyLinear(CLASSES)).train()
    model(x[:2])
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(STEPS):
        part = torch.arange(len(x)).roll(64 * step)[:64]
        loss = torch.nn.functional.cross_entropy(model(x[part]), torch.from_numpy(labels)[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the plain mean over batches
        for part in x.split(64):
            model(part)
    model.eval()
    weight, bias = (parameter.detach().numpy() for parameter in model[1].parameters())
    head = LinearHead({"linear.weight": weight, "linear.bias": bias})
    preprocessing = preprocessing_of(data | {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    return export_onnx(Deployable(exportable(backbone), head, preprocessing, "uint8-nhwc").eval(), size, {})


TENSORS = Tensors(Preprocessing(28, 28, "bicubic", (0.5,) * 3, (0.5,) * 3))  # pixels are taken as they are


def answers(content: bytes, pixels: np.ndarray) -> np.ndarray:
    return predict(OnnxSession(content), TENSORS, pixels)


def int8(student: str, **options: object) -> Converted:
    size = STUDENTS[student]
    judge, labels = images(size, "test", 120)
    return to_int8(
        trained(student), {"classes": ["a"]}, TENSORS, images(size, "train", 64)[0], Judges(judge, labels),
        Int8Choices(**{"max_drop": 100.0, **options}),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("student", "agreement"),
    [
        ("test_resnet", 0.95),
        pytest.param("test_vit", 0.95, marks=pytest.mark.slow),
        pytest.param("mobilenetv2_100", 0.6, marks=pytest.mark.slow),
        pytest.param("test_efficientnet", 0.95, marks=pytest.mark.slow),
    ],
)
def test_int8_answers_as_fp32_and_tensorrt_builds_it(student: str, agreement: float) -> None:
    size = STUDENTS[student]
    result = int8(student)
    judge, labels = images(size, "test", 120)
    fp32, quantised = answers(trained(student), judge), answers(result.content, judge)
    assert (fp32.argmax(-1) == labels).mean() > 0.5  # a classifier worth quantising
    assert (fp32.argmax(-1) == quantised.argmax(-1)).mean() >= agreement
    assert (result.account.drop, result.account.bound) == loss_of(quantised, fp32, labels)
    model = onnx.load_from_string(result.content)
    assert (model.ir_version, model.opset_import[0].version) == (10, 19)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"dhox.classes": '["a"]'}
    assert len(result.content) < 0.4 * len(trained(student))
    maker = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    all_layers = [node.name for node in layers(onnx.load_from_string(trained(student)).graph, False)]
    assert sorted([*result.account.quantised, *(layer.node for layer in result.account.returned)]) == sorted(all_layers)
    for node in model.graph.node:
        if node.name in result.account.quantised:
            data, weight = maker[node.input[0]], maker[node.input[1]]
            assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
            assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
            assert constants[weight.input[1]].data_type == onnx.TensorProto.FLOAT16
            assert len(numpy_helper.to_array(constants[weight.input[1]])) > 1  # a scale per output channel
            assert constants[data.input[1]].data_type == onnx.TensorProto.FLOAT16
        if node.op_type in {"Relu", "Clip", "Sub", "Softmax", "LayerNormalization", "Gelu", "Erf"}:
            assert all(maker[name].op_type != "DequantizeLinear" for name in node.input if name in maker)
    types = build(result.content)
    assert types["INT8"] >= len(result.account.quantised)
    assert types["HALF"] > 0


def test_equal_input_gives_equal_bytes_and_json_of_plain_values() -> None:
    first, second = int8("test_resnet"), int8("test_resnet")
    assert first.content == second.content
    told = json.loads(json.dumps(msgspec.to_builtins(first.account)))
    assert told == msgspec.to_builtins(second.account)
    assert "content" not in told
    assert (told["n_calibration"], told["n_judge"], told["labelled"], told["returned"]) == (64, 120, True, [])
    assert 0.98 < told["share"] < 1  # all but the head


def test_the_head_is_quantised_only_on_demand() -> None:
    heads = [int8("test_resnet", quantize_head=wanted) for wanted in (False, True)]
    fp32 = onnx.load_from_string(trained("test_resnet")).graph
    gemm = next(node.name for node in fp32.node if node.op_type == "Gemm")
    assert [gemm in result.account.quantised for result in heads] == [False, True]
    assert heads[1].account.share == 1
    assert build(heads[1].content)["INT8"] > build(heads[0].content)["INT8"]


def test_one_side_of_every_residual_sum_of_convolutions_is_quantised() -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(trained("test_resnet")))
    names = [node.name for node in layers(model.graph, False)]
    ranges = calibrate(model, [images(28, "train", 8)[0]], "minmax")
    graph = quantise(model, ranges, names).graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    sums = [sorted(maker[name] for name in node.input) for node in graph.node if node.op_type == "Add"]
    assert sums == [["Conv", "DequantizeLinear"]] * 4
    assert len(shortcuts(model.graph, set(names))) == 4
    assert shortcuts(model.graph, set()) == []  # nothing to fuse with


def spoiled(fp32: bytes) -> tuple[bytes, str]:
    """The same function with one layer that int8 cannot hold, and its name.

    Half of a convolution's output channels are made tiny, and the next convolution, behind their Relu, multiplies them
    back: ranges per tensor round them to zero.
    """
    model = onnx.load_from_string(fp32)
    nodes, tensors = model.graph.node, {tensor.name: tensor for tensor in model.graph.initializer}
    reader = {
        node.input[0]: node for node in nodes if [name for n in nodes for name in n.input].count(node.input[0]) == 1
    }
    for first in nodes:
        relu = reader.get(first.output[0])
        second = reader.get(relu.output[0]) if relu is not None and relu.op_type == "Relu" else None
        if first.op_type == "Conv" and second is not None and second.op_type == "Conv":
            weight, bias, behind = (
                numpy_helper.to_array(tensors[n]).copy() for n in (*first.input[1:], second.input[1])
            )
            if behind.shape[1] == len(weight):
                weight[::2] /= 4096
                bias[::2] /= 4096
                behind[:, ::2] *= 4096
                for name, array in zip((*first.input[1:], second.input[1]), (weight, bias, behind), strict=True):
                    tensors[name].CopyFrom(numpy_helper.from_array(array, name))
                return model.SerializeToString(), second.name
    raise AssertionError("no two convolutions in a row")


def test_a_layer_with_a_destroyed_range_is_found_and_returned() -> None:
    content, name = spoiled(trained("test_resnet"))
    judge, labels = images(28, "test", 120)
    calibration = images(28, "train", 64)[0]
    before, after = answers(trained("test_resnet"), judge), answers(content, judge)
    assert abs(before - after).max() < 1e-3  # the same function in fp32
    result = to_int8(content, {}, TENSORS, calibration, Judges(judge, labels), Int8Choices(max_drop=3))
    assert [layer.node for layer in result.account.returned] == [name]
    assert result.account.returned[0].op == "Conv"
    assert result.account.returned[0].damage > 0.01
    assert result.account.bound is not None
    assert result.account.drop < result.account.bound <= 3
    assert name not in result.account.quantised
    assert build(result.content)["INT8"] >= len(result.account.quantised)
    alone = {node.name: "" for node in onnx.load_from_string(content).graph.node if node.name != name}
    with refuses("int8", 3, "top-1", 120, at=TO_INT8, fix=("--fp16", "--max-accuracy-drop"), kind=GateFailedError):
        to_int8(content, {}, TENSORS, calibration, Judges(judge, labels), Int8Choices(max_drop=3, kept=alone))
    with refuses("int8", "3 %", 120, at=TO_INT8, fix=("--fp16", "--max-accuracy-drop"), kind=GateFailedError):
        to_int8(content, {}, TENSORS, calibration, Judges(judge, None), Int8Choices(max_drop=3, kept=alone))
    generous = to_int8(content, {}, TENSORS, calibration, Judges(judge, labels), Int8Choices(max_drop=100, kept=alone))
    assert generous.account.quantised == [name]
    assert generous.account.drop > 3
    assert "expect little speed" in str(generous.account.advice)


@pytest.mark.slow
def test_transformers_are_told_that_int8_may_not_pay() -> None:
    advice = int8("test_vit").account.advice
    assert advice is not None
    assert "transformer's matrix products" in advice
    assert int8("test_resnet").account.advice is None


def test_bad_input_is_refused() -> None:
    content = trained("test_resnet")
    judge, labels = images(28, "test", 8)
    with refuses("int8", at="export.quantization.qdq.calibrate", fix="DATA"):
        to_int8(content, {}, TENSORS, judge[:0], Judges(judge, labels), Int8Choices(max_drop=20))
    with refuses("int8", at=TO_INT8, fix="DATA"):
        to_int8(content, {}, TENSORS, judge, Judges(judge[:0], labels))
    with refuses(-1, at=TO_INT8, fix=(0,), kind=UsageError):
        to_int8(content, {}, TENSORS, judge, Judges(judge, labels), Int8Choices(max_drop=-1))
    everything = {node.name: "" for node in onnx.load_from_string(content).graph.node}
    with refuses("int8", at=TO_INT8, fix="--int8"):
        to_int8(content, {}, TENSORS, judge, Judges(judge, labels), Int8Choices(max_drop=20, kept=everything))


@pytest.mark.parametrize("method", METHODS)
def test_ranges_hold_what_was_seen(method: str) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(trained("test_resnet")))
    ranges = calibrate(model, [images(28, "train", 16)[0]], method)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    low, high = (float(np.squeeze(value)) for value in ranges[first.input[0]].range_value)
    pixels = images(28, "train", 16)[0] / 127.5 - 1
    assert -1 <= low <= high <= 1.001
    assert max(-low, high) > 0.95 * abs(pixels).max()


def test_points_lost_by_hand() -> None:
    fp32 = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    other = np.eye(3, dtype=np.float32)[[0, 1, 0, 0]]
    labels = np.array([0, 1, 2, 1])
    assert loss_of(fp32, fp32, labels).points == loss_of(fp32, fp32, None).points == 0
    assert loss_of(other, fp32, labels).points == loss_of(other, fp32, None).points == 25
    assert loss_of(fp32, other, labels).points == -25
    assert loss_of(np.full_like(fp32, np.nan), fp32, labels) == (100, 100)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_image_of_a_hundred_does_not_pass_a_limit_of_one_point(labelled: bool) -> None:
    fp32 = np.eye(2, dtype=np.float32)[np.zeros(100, int)]
    labels = np.zeros(100, int) if labelled else None
    one = fp32.copy()
    one[0] = [0, 1]
    loss = loss_of(one, fp32, labels)
    assert loss.points == pytest.approx(1)
    n, gained, lost = 102, 0.5, 1.5  # half an observation in each cell
    spread = ((gained + lost) / n - ((gained - lost) / n) ** 2) ** 0.5 / n**0.5
    assert loss.bound == pytest.approx(100 * (1 / n + 1.644854 * spread))
    assert loss.bound > 3


@pytest.mark.parametrize(("n", "enough"), [(162, False), (163, True)])
def test_how_many_images_a_limit_needs_is_said_before_anything_is_quantised(n: int, enough: bool) -> None:
    content = trained("test_resnet")
    pixels, labels = images(28, "train", n)
    everything = {node.name: "" for node in onnx.load_from_string(content).graph.node}
    told = "no layer" if enough else f"cannot be shown on {n} images"
    with pytest.raises(DhoxError, match=told) as refused:
        to_int8(content, {}, TENSORS, pixels, Judges(pixels, labels), Int8Choices(max_drop=1, kept=everything))
    assert isinstance(refused.value, GateFailedError) != enough
    assert ("163 images" in str(refused.value)) != enough


@given(st.integers(1, 300), st.data())
def test_the_fewest_that_hold_are_found_with_few_questions(n: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, n))
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= threshold

    assert fewest(n, holds) == threshold
    assert len(asked) <= 2 * np.log2(threshold + 1) + 2
    assert n not in asked  # all returned is fp16, which the caller refuses

"""The students that dhox stands for: each one's graph answers as torch, runs wholly on a device, and builds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import onnx
import open_clip
import pytest
import torch
from onnx_graphs import assert_runs_everywhere, pixels
from tensorrt_rtx_build import build_plan, fused_attentions

from dhox.artefacts.common import Preprocessing
from dhox.data.images import normalise
from dhox.distill.students.clip_tower import build_tower
from dhox.distill.students.student import Student, create_backbone, with_heads
from dhox.export.folding.fold import Fold
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_contract import check_contract
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.convert import convert

SIZE = 64  # maps of 2 x 2 places at the end, so that pooling has something to do
FAST = ("resnet18",)
OTHER_SIZES = {"tiny_vit_5m_224": 224, "mobileone_s0": 128}  # windows made for 224; fewer dead channels
SLOW = (
    "mobilenetv4_conv_small", "tf_efficientnet_lite0", "mobileone_s0", "convnext_atto", "open_clip:MobileCLIP2-S0",
    "resnet50", "open_clip:ViT-B-16", "mobilenetv2_100", "vit_tiny_patch16_224", "mobilenetv3_large_100", "efficientnet_b0", "efficientvit_b0", "fastvit_t8", "repvit_m1",
    "tiny_vit_5m_224",
)  # fmt: skip
ATTENTIONS = {
    "tiny_vit_5m_224": 10, "vit_tiny_patch16_224": 12, "open_clip:ViT-B-16": 2, "open_clip:MobileCLIP2-S0": 2,
}  # fmt: skip


def preprocessing(size: int) -> Preprocessing:
    return Preprocessing(size, size, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def random_student(name: str, size: int) -> Student:
    """The student with random weights, BatchNorm statistics of one batch, and logits that spread by 0.5."""
    torch.manual_seed(0)
    if name.startswith("open_clip:"):
        config = open_clip.get_model_config(name.removeprefix("open_clip:"))
        config["vision_cfg"] |= {} if "timm_model_name" in config["vision_cfg"] else {"layers": 2}  # of 12
        backbone = build_tower({key: config[key] for key in ("embed_dim", "vision_cfg")}, size)
    else:
        backbone = create_backbone(name, "none", size)[0]
    student = with_heads(backbone, size, 5, two_heads=True).train()
    for module in student.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    images = torch.from_numpy(normalise(pixels(size, 8), preprocessing(size)))
    with torch.no_grad():
        student(images)
        for head, logits in zip((student.ce_head, student.kd_head), student.eval()(images), strict=True):
            head.weight.mul_(0.5 / logits.std())
    return student


def deployables(student: Student, size: int) -> tuple[Deployable, Deployable]:
    """(as it was trained, as it is exported)."""
    head = folded_head(head_arrays(student), Fold("exact", 0.4, 0.5))
    return (
        Deployable(student.backbone, head, preprocessing(size), "uint8-nhwc").eval(),
        Deployable(exportable(student.backbone), head, preprocessing(size), "uint8-nhwc").eval(),
    )


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_student_runs_everywhere(name: str) -> None:
    size = OTHER_SIZES.get(name, SIZE)
    student = random_student(name, size)
    module, graph = deployables(student, size)
    fp32 = export_onnx(graph, size, {})
    # Merging MobileOne's untrained branches leaves large terms that cancel, and fp16 rounds each of them.
    assert_runs_everywhere(module, fp32, size, 0.1 if name == "mobileone_s0" else 2e-2)
    model = onnx.load_from_string(fp32)
    assert_nothing_left_to_fold(model)
    assert_batch_is_named(model)
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in student.modules())
    for content in (fp32, convert(fp32, {}, {})):
        operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
        assert operators.count("LayerNormalization") == norms
        assert operators.count("Softmax") == ATTENTIONS.get(name, 0) + 1
        assert "BatchNormalization" not in operators or name == "open_clip:MobileCLIP2-S0"
    assert_attention_is_plain(model)


def assert_nothing_left_to_fold(model: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    assert [node.name for node in model.graph.node if set(node.input) <= constants] == []


def assert_batch_is_named(model: onnx.ModelProto) -> None:
    """Input and output [batch, ...]; other symbols inside are multiples of it (windows), and there is no other size."""
    check_contract(model)
    for value in model.graph.value_info:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.WhichOneof("value") == "dim_param":
                assert dim.dim_param == "batch" or dim.dim_param.endswith("*batch"), value
                assert place < 2, value
            else:
                assert dim.WhichOneof("value") == "dim_value", value


def assert_attention_is_plain(model: onnx.ModelProto) -> None:
    """MatMul (+ Add of a constant) -> Softmax -> MatMul, the scale on the queries before: what compilers fuse."""
    makers = {name: node for node in model.graph.node for name in node.output}
    users = {name: node for node in model.graph.node for name in node.input}
    constants = {tensor.name for tensor in model.graph.initializer}
    for softmax in model.graph.node:
        if softmax.op_type != "Softmax" or "probs" in softmax.output or users[softmax.output[0]].op_type == "Mul":
            continue  # the head's
        scores = makers[softmax.input[0]]
        if scores.op_type == "Add":
            assert scores.input[1] in constants
            scores = makers[scores.input[0]]
        assert scores.op_type == "MatMul"
        assert makers[scores.input[0]].op_type == "Mul"
        assert users[softmax.output[0]].op_type == "MatMul"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["open_clip:ViT-B-16"])
def test_tensorrt_makes_every_attention_one_kernel(name: str) -> None:
    graph = deployables(random_student(name, 224), 224)[1]
    assert fused_attentions(build_plan(convert(export_onnx(graph, 224, {}), {}, {}))[1]) == ATTENTIONS[name]


def digests(name: str, size: int) -> list[str]:
    """Hashes of the fp32 and the fp16 graph."""
    fp32 = export_onnx(deployables(random_student(name, size), size)[1], size, {"classes": ["a", "b"]})
    return [hashlib.sha256(content).hexdigest() for content in (fp32, convert(fp32, {"classes": ["a", "b"]}, {}))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("test_vit", 32), ("fastvit_t8", 64)])  # a class token; merged branches
def test_another_process_writes_the_same_bytes(name: str, size: int) -> None:
    code = f"import test_students; print(*test_students.digests({name!r}, {size}))"
    paths = os.pathsep.join(str(folder) for folder in (Path(__file__).parent, Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.stdout.split() == digests(name, size)

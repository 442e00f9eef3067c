"""The exported backbone: the same function as the trained one, built by ONNX Runtime and by TensorRT-RTX."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import timm
import torch
from onnx_graphs import assert_runs_everywhere

from dhox.artefacts.common import Preprocessing
from dhox.distill.students.clip_tower import build_tower
from dhox.distill.students.student import create_backbone, with_heads
from dhox.export.folding.fold import Fold
from dhox.export.graphs.backbone import MeanPool, PlainAttention, PlainGELU, attend, exportable
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx

TOWERS: dict[str, tuple[dict[str, Any], int]] = {
    "CLIP ViT": ({"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}, 32),
    "CLIP ResNet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}, 64),
    "timm ViT": ({"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}, 32),
    "MobileCLIP": ({"image_size": 256, "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None}, 64),
}  # fmt: skip
PREPROCESSING = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def tower(name: str) -> tuple[torch.nn.Module, int]:
    vision, size = TOWERS[name]
    torch.manual_seed(0)
    return build_tower({"embed_dim": 24, "vision_cfg": vision, "quick_gelu": True}, size), size


@pytest.mark.parametrize(
    "name",
    ["CLIP ViT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("CLIP ResNet", "timm ViT", "MobileCLIP"))],
)
def test_a_tower_with_a_cosine_head_runs_everywhere(name: str) -> None:
    backbone, size = tower(name)
    student = with_heads(backbone, size, 5, two_heads=True, kd_kind="cosine-code")
    student.train()
    with torch.no_grad():  # BatchNorm statistics that fit the weights
        for _ in range(5):
            student(torch.randn(8, 3, size, size))
    fold = Fold("exact", 0.4, 0.5)
    preprocessing = Preprocessing(size, size, "bicubic", *PREPROCESSING)
    head = folded_head(head_arrays(student), fold)
    module = Deployable(student.eval().backbone, head, preprocessing, "uint8-nhwc").eval()
    fp32 = export_onnx(Deployable(exportable(student.backbone), head, preprocessing, "uint8-nhwc").eval(), size, {})
    assert_runs_everywhere(module, fp32, size)


@pytest.mark.parametrize("name", TOWERS)
def test_the_copy_gives_equal_features_and_leaves_the_original_alone(name: str) -> None:
    backbone, size = tower(name)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    copy = exportable(backbone)
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        features = backbone.eval()(images)
        assert torch.allclose(copy(images), features, atol=1e-5 * float(features.abs().max()))
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


def test_training_branches_are_merged() -> None:
    backbone, _ = tower("MobileCLIP")
    convolutions = [
        sum(isinstance(module, torch.nn.Conv2d) for module in net.modules()) for net in (backbone, exportable(backbone))
    ]
    assert convolutions[1] < 0.8 * convolutions[0]
    plain = create_backbone("test_resnet", "none", 28)[0].eval()
    changed = {(type(a), type(b)) for a, b in zip(plain.modules(), exportable(plain).modules(), strict=True)}
    assert {pair for pair in changed if pair[0] is not pair[1]} == {(torch.nn.AdaptiveAvgPool2d, MeanPool)}
    branched = timm.create_model("repvgg_a0", num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(exportable(branched)(images), branched(images), atol=1e-4)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(24, 3, batch_first=True).eval()
    torch.nn.init.normal_(layer.in_proj_bias)
    x = torch.randn(2, 7, 24)
    with torch.no_grad():
        assert torch.allclose(PlainAttention(layer)(x, x, x)[0], layer(x, x, x, need_weights=False)[0], atol=1e-5)
        q, k, v = torch.randn(3, 2, 7, 24).unbind()
        across = layer(q[:, :2], k, v, need_weights=False)[0]
        assert torch.allclose(PlainAttention(layer)(q[:, :2], k, v)[0], across, atol=1e-5)
        heads = [part.view(2, 7, 3, 8).transpose(1, 2) for part in (q, k, v)]
        expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 7, 24)
        assert torch.allclose(attend(q, k, v, 3), expected, atol=1e-5)


def test_gelu_and_global_pooling_are_torchs() -> None:
    torch.manual_seed(0)
    x = 4 * torch.randn(2, 5, 7, 9)
    for plain, reference in ((PlainGELU(), torch.nn.GELU()), (MeanPool(), torch.nn.AdaptiveAvgPool2d(1))):
        for layout in (torch.contiguous_format, torch.channels_last):
            answer, expected = plain(x.to(memory_format=layout)), reference(x)
            assert answer.shape == expected.shape
            assert float((answer - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.slow
def test_the_graph_of_a_tower_is_small() -> None:
    """Attention as torch exports it by itself brings Shape, Slice and Concat for every layer."""
    backbone, size = tower("CLIP ViT")
    student = with_heads(backbone, size, 5, two_heads=False)
    preprocessing = Preprocessing(size, size, "bicubic", *PREPROCESSING)
    head = folded_head(head_arrays(student), Fold("single", 1.0, 1.0))
    nodes = [
        [node.op_type for node in onnx.load_from_string(export_onnx(module, size, {})).graph.node]
        for module in (
            Deployable(net, head, preprocessing, "uint8-nhwc").eval() for net in (backbone, exportable(backbone))
        )
    ]
    assert nodes[0].count("Shape") > 1
    assert nodes[1].count("Shape") == 0
    assert len(nodes[1]) < len(nodes[0])

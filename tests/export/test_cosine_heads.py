"""Exported heads of every kind against DHO inference and its pool, computed in numpy from the trained parameters."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tensorrt_rtx_build import build
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.manifest import ComparisonRow, Fold
from dhox.distill.students.kd_head import KD_HEADS
from dhox.distill.students.student import Student
from dhox.evidence.statistics import softmax
from dhox.export.folding.cost import with_costs
from dhox.export.folding.fold import coefficients, inference_linear
from dhox.export.graphs.embedding import features_of, with_embedding
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.convert import convert
from dhox.runtimes.onnxruntime_session import OnnxSession

ALPHA = st.floats(0, 1)
BETA = st.floats(0.1, 4)
SEED = st.integers(0, 2**20)
KINDS = st.sampled_from(KD_HEADS)


def student_of(kind: str, seed: int, features: int = 7, classes: int = 5, backbone: nn.Module | None = None) -> Student:
    torch.manual_seed(seed)
    student = Student(backbone or nn.Identity(), features, classes, True, kind)
    for parameter in [*student.ce_head.parameters(), *student.kd_head.parameters()]:  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=1 if kind == "linear" else 0.2)
    return student.eval()


def logits_of(student: Student, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(CE, KD) logits in float64, by the definitions of the kinds."""
    z = z.astype(np.float64)
    z_unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    ce_w, ce_b, kd_w = (
        part.detach().double().numpy()
        for part in (student.ce_head.weight, student.ce_head.bias, student.kd_head.weight)
    )
    ce = z @ ce_w.T + ce_b
    if student.kd_kind == "cosine-paper":
        return ce, 100 * z_unit @ (kd_w / np.linalg.norm(kd_w, axis=1, keepdims=True)).T
    kd_b = student.kd_head.bias.detach().double().numpy()
    return ce, z @ kd_w.T + kd_b if student.kd_kind == "linear" else 100 * (z_unit @ kd_w.T + kd_b)


def features(seed: int, n: int = 16, d: int = 7) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(0, 1, (n, d)) * random.uniform(0.1, 10, (n, 1))).astype(np.float32)


@given(kind=KINDS, alpha=ALPHA, beta=BETA, seed=SEED)
def test_exact_and_kept_heads_equal_dho_inference(kind: str, alpha: float, beta: float, seed: int) -> None:
    student, z = student_of(kind, seed), features(seed)
    ce, kd = logits_of(student, z)
    expected = alpha * softmax(ce) + (1 - alpha) * softmax(kd / beta)
    for rule in ("exact", "heads"):
        probs = folded_head(head_arrays(student), Fold(rule, alpha, beta))(torch.from_numpy(z)).detach().numpy()
        assert probs.dtype == np.float32
        assert abs(probs - expected).max() < 2e-4


@given(kind=KINDS, seed=SEED, r=st.floats(0, 60), tau=st.floats(0.5, 10))
def test_linear_is_the_log_linear_pool(kind: str, seed: int, r: float, tau: float) -> None:
    student, z = student_of(kind, seed), features(seed)
    ce, kd = logits_of(student, z)
    c_ce, c_kd = coefficients(r, tau)
    head = folded_head(head_arrays(student), Fold("linear", 0.5, 1.0, c_ce, c_kd))
    assert head.linear.weight.shape == (5, 7 if kind == "linear" else 14)
    probs = head(torch.from_numpy(z)).detach().numpy()
    expected = softmax(c_ce * ce + c_kd * kd)
    assert abs(probs - expected).max() < 1e-5 * max(1.0, abs(c_kd * kd).max())


@given(kind=KINDS, seed=SEED, alpha=ALPHA, beta=BETA, r=st.floats(0, 60))
def test_where_both_heads_agree_every_rule_agrees(kind: str, seed: int, alpha: float, beta: float, r: float) -> None:
    student, z = student_of(kind, seed), features(seed, 64)
    both = np.ones(len(z), bool)
    for logits in logits_of(student, z):
        top = np.sort(logits, -1)
        both &= (logits.argmax(-1) == logits_of(student, z)[0].argmax(-1)) & (top[:, -1] - top[:, -2] > 1e-2)
    label = logits_of(student, z)[0].argmax(-1)
    for fold in (Fold("exact", alpha, beta), Fold("linear", alpha, beta, *coefficients(r, 1.0))):
        answers = folded_head(head_arrays(student), fold)(torch.from_numpy(z)).argmax(-1).numpy()
        assert np.array_equal(answers[both], label[both])


class PixelFeatures(nn.Module):
    """[B, 3, 4, 4] to features [B, 48], as a backbone that ends in a plain elementwise operator."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).relu() + 0.1


@pytest.mark.parametrize(
    ("kind", "rule", "z_norm"),
    [
        ("linear", "exact", None),
        ("cosine-code", "heads", None),
        ("cosine-code", "exact", None),
        ("cosine-paper", "linear", 90.0),
        *(
            pytest.param(*each, None, marks=pytest.mark.slow)
            for each in product(KD_HEADS, ("heads", "exact", "linear"))
        ),
    ],
)
def test_graphs_of_every_kind_answer_and_build(kind: str, rule: str, z_norm: float | None) -> None:
    student = student_of(kind, 3, 48, 6, PixelFeatures())
    fold = replace(inference_linear(0.4, 0.5), rule=rule, z_norm=z_norm)
    preprocessing = Preprocessing(4, 4, "bicubic", (0.5, 0.5, 0.5), (0.01, 0.01, 0.01))
    module = Deployable(student.backbone, folded_head(head_arrays(student), fold), preprocessing, "uint8-nhwc").eval()
    fp32 = export_onnx(module, 4, {})
    batch = np.random.default_rng(0).integers(100, 156, (9, 4, 4, 3), dtype=np.uint8)
    z = ((batch.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.01).clip(0).reshape(9, -1) + 0.1
    ce, kd = logits_of(student, z)
    kd = kd if z_norm is None else kd * np.linalg.norm(z, axis=1, keepdims=True) / z_norm
    expected = (
        softmax(fold.c_ce * ce + fold.c_kd * kd) if rule == "linear" else 0.4 * softmax(ce) + 0.6 * softmax(kd / 0.5)
    )
    assert abs(OnnxSession(fp32).infer(batch) - expected).max() < 1e-4
    fp16 = convert(fp32, {}, {})
    assert abs(OnnxSession(fp16).infer(batch) - expected).max() < 2e-2
    assert build(fp32)["HALF"] == 0
    assert build(fp16)["HALF"] > 0
    operators = [node.op_type for node in onnx.load_from_string(fp32).graph.node]
    assert operators.count("Gemm") + operators.count("MatMul") == (2 if rule == "heads" else 1)
    assert not {"Shape", "Expand", "ConstantOfShape"} & set(operators)
    assert ("ReduceL2" in operators) == (kind != "linear" and z_norm is None)
    read = features_of(fp32, fold, kind != "linear")
    for content, off in ((fp32, 1e-3), (fp16, 0.1)):
        both = with_embedding(content, read, 48, {}, 18)
        probs, embedding = OnnxSession(both).infer_all(batch)
        assert abs(probs - expected).max() < 2e-2
        assert abs(embedding - z).max() < off
        build(both)


def test_fp16_computes_norms_in_fp32() -> None:
    """|z| of 400 has a square beyond fp16."""
    student = student_of("cosine-code", 0, 48, 6, PixelFeatures())
    fold = Fold("exact", 0.0, 1.0)
    preprocessing = Preprocessing(4, 4, "bicubic", (0.0, 0.0, 0.0), (0.01, 0.01, 0.01))
    module = Deployable(student.backbone, folded_head(head_arrays(student), fold), preprocessing, "uint8-nhwc").eval()
    batch = np.random.default_rng(0).integers(100, 256, (4, 4, 4, 3), dtype=np.uint8)
    z = (batch.transpose(0, 3, 1, 2) / 255 / 0.01).reshape(4, -1) + 0.1
    assert (np.linalg.norm(z, axis=1) > 256).all()
    fp16 = convert(export_onnx(module, 4, {}), {}, {})
    assert abs(OnnxSession(fp16).infer(batch) - softmax(logits_of(student, z)[1])).max() < 2e-2
    graph = onnx.load_from_string(fp16).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    norms = [node for node in graph.node if node.op_type == "ReduceL2"]
    assert [types[node.output[0]] for node in norms] == [onnx.TensorProto.FLOAT]


@pytest.mark.parametrize("kind", KD_HEADS)
def test_heads_npz_and_costs_tell_the_kind(kind: str) -> None:
    heads = head_arrays(student_of(kind, 0))
    assert str(heads.kd_head) == kind
    assert {name: array.shape for name, array in vars(heads).items()} == {
        "ce_weight": (5, 7), "ce_bias": (5,), "kd_weight": (5, 7), "kd_bias": (5,), "kd_head": (),
    }  # fmt: skip
    stages = ("ce_head", "dho", "exact", "linear_tuned")
    empty = np.zeros(0, bool)
    rows = [ComparisonRow.of(empty, stage=stage, agreement_with_dho=1.0, calibration_error=0.0) for stage in stages]
    priced = with_costs(rows, heads, 0.4, 0.5)
    assert {row.stage: row.head_parameters for row in priced} == {
        "ce_head": 40, "dho": 80, "exact": 80, "linear_tuned": 40 if kind == "linear" else 75,
    }  # fmt: skip
    assert all(row.head_us is not None and row.head_us > 0 for row in priced)

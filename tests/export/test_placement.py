"""The gate on where a graph runs: shape arithmetic found and left alone, and the provider of every node that ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx_graphs import pixels
from refusals import refuses

from dhox.artefacts.common import Preprocessing
from dhox.errors import GateFailedError
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import check_placement, cuda_placement, profiled_nodes, shape_arithmetic
from dhox.export.untrained import export_candidate
from dhox.runtimes.onnxruntime_api import PROVIDERS, available_providers, why_not

NO_CUDA = "not run: no CUDAExecutionProvider (onnxruntime "


def graph(body: str) -> bytes:
    text = f'<ir_version: 10, opset_import: ["": 18]> g (float[batch, 4, 6] x) => (float[a, b, c] y) {body}'
    content: bytes = onnx.parser.parse_model(text).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("{ y = Relu (x) }", []),
        # a constant place, a Reshape with one free axis: nothing is computed
        ("<int64[1] i = {0}> { y = Gather <axis = 1> (x, i) }", []),
        ("<int64[3] s = {-1, 2, 12}> { y = Reshape (x, s) }", []),
        ("<int64[1] a = {1}, int64[1] b = {2}> { s = Add (a, b) t = Unsqueeze (x, s) y = Squeeze (t, s) }", []),
        ("{ s = Shape (x) y = Expand (x, s) }", ["Shape", "Expand"]),
        ("<int64 i = {0}> { s = Shape (x) b = Gather (s, i) t = Cast <to = 1> (b) y = Add (x, t) }",
         ["Shape", "Gather", "Cast", "Add"]),
        ("<int64 i = {0}, int64 o = {1}> { s = Size (x) r = Range (i, s, o) y = Gather (x, r) z = Relu (y) }",
         ["Size", "Range", "Gather"]),
        # a token that is repeated is data again: what comes after computes no sizes
        ("<float[1, 1, 6] t = {1, 2, 3, 4, 5, 6}> { s = Shape (x) e = Expand (t, s) y = Concat <axis = 1> (e, x) }",
         ["Shape", "Expand"]),
    ],
)  # fmt: skip
def test_shape_arithmetic(body: str, operators: list[str]) -> None:
    assert [node.split()[0] for node in shape_arithmetic(graph(body))] == operators


class TokenBehind(torch.nn.Module):
    """[B, 3, 8, 8] to features [B, 9], by a token that stands behind the others."""

    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Parameter(torch.ones(1, 1, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, 3, 64)[..., :9]
        return torch.cat([x, self.token.expand(x.shape[0], -1, -1)], 1).mean(1)


def test_a_graph_that_asks_for_the_batch_size_fails_and_is_named() -> None:
    head = LinearHead({"linear.weight": np.ones((2, 9), np.float32), "linear.bias": np.zeros(2, np.float32)})
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    content = export_onnx(Deployable(TokenBehind(), head, preprocessing, "uint8-nhwc").eval(), 8, {})
    with refuses("fp32", "Shape", "Expand", at="export.graphs.placement.check_placement", kind=GateFailedError):
        check_placement("fp32", content, pixels(8))


@pytest.mark.parametrize("file", ["model.onnx", "model.fp16.onnx"])
def test_a_students_graph_passes(line: Path, file: str) -> None:
    if why_not(PROVIDERS["cuda"]) is None:
        pytest.skip("CUDA is here: see the gpu test")
    content = (line / "runs/tiny/export" / file).read_bytes()
    assert str(check_placement("x", content, pixels(28))).startswith(NO_CUDA)


def test_the_profile_names_the_provider_of_every_node(line: Path) -> None:
    nodes = profiled_nodes((line / "runs/tiny/export/model.onnx").read_bytes(), pixels(28), "cpu")
    assert {provider for _, _, provider in nodes} == {"CPUExecutionProvider"}
    operators = [operator for _, operator, _ in nodes]
    assert {"Cast", "Conv", "Gemm", "Softmax"} <= {operator.removeprefix("Fused") for operator in operators}
    assert len({name for name, _, _ in nodes}) == len(nodes)
    assert not list(Path().iterdir())


def test_a_node_that_falls_back_to_the_cpu_fails(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider in the place of CUDA's that starts and takes no node."""
    if "AzureExecutionProvider" not in available_providers():
        pytest.skip("this ONNX Runtime has no provider that takes nothing")
    monkeypatch.setitem(PROVIDERS, "cuda", "AzureExecutionProvider")
    content = (line / "runs/tiny/export/model.onnx").read_bytes()
    at = "export.graphs.placement.cuda_placement"
    with refuses("fp32", "AzureExecutionProvider", "(CPUExecutionProvider)", at=at, kind=GateFailedError):
        cuda_placement("fp32", content, pixels(28))


@pytest.mark.gpu
@pytest.mark.parametrize(("student", "size"), [("test_resnet", 28), ("test_vit", 32), ("test_efficientnet", 32)])
def test_every_node_runs_on_cuda(student: str, size: int, tmp_path: Path) -> None:
    assert why_not(PROVIDERS["cuda"]) is None
    export_candidate(student, size, 4, True, tmp_path / "export")
    for precision, file in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx")):
        placement = check_placement(precision, (tmp_path / "export" / file).read_bytes(), pixels(size))
        assert set(placement) == {PROVIDERS["cuda"]}

"""Class tokens without Shape arithmetic: every bit as the exporter's own graph gives it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx_graphs import pixels

from dhox.artefacts.common import Preprocessing
from dhox.export.graphs import onnx_export
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import shape_arithmetic
from dhox.runtimes.onnxruntime_session import OnnxSession


class Tokens(torch.nn.Module):
    """[B, 3, 8, 8] to features [B, (3 + tokens) 8]: `tokens` constants in front of three others, as `kind` says."""

    def __init__(self, tokens: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.tokens = torch.nn.ParameterList(torch.randn(1, 1, 8) for _ in range(tokens))
        self.position = torch.nn.Parameter(torch.randn(*(() if kind == "2-D position" else (1,)), 3 + tokens, 8))
        self.scale = torch.nn.Parameter(torch.randn(1, 3 + tokens, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean(-1)
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in self.tokens), x], 1)
        if self.kind == "scaled":
            return (x * self.scale).flatten(1)
        if self.kind == "broadcast":
            return (x + self.scale).flatten(1)
        return (x + self.position).flatten(1) if "position" in self.kind else x.flatten(1)


@pytest.mark.parametrize(("tokens", "kind"), [(1, "2-D position"), (3, "position"), (2, "scaled"), (1, "broadcast")])
def test_class_tokens_are_padded_in(tokens: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    head = LinearHead(
        {
            "linear.weight": random.normal(size=(4, 8 * (3 + tokens))).astype(np.float32),
            "linear.bias": np.zeros(4, np.float32),
        }
    )
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    module = Deployable(Tokens(tokens, kind), head, preprocessing, "uint8-nhwc").eval()
    simple = export_onnx(module, 8, {})
    monkeypatch.setattr(onnx_export, "simplify", lambda model: None)
    plain = export_onnx(module, 8, {})
    assert shape_arithmetic(plain)[0].startswith("Shape")
    assert shape_arithmetic(simple) == []
    operators = [node.op_type for node in onnx.load_from_string(simple).graph.node]
    assert operators.count("Pad") == 1
    assert operators.count("Add") == (2 if kind == "broadcast" else 1)  # one constant where a position follows
    for n in (1, 5):
        answers = [OnnxSession(content).infer(pixels(8, n)) for content in (plain, simple)]
        assert np.array_equal(*answers)


class TokensBehind(Tokens):
    """The same tokens behind the others: none of the passes' business."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean(-1)
        return torch.cat([x, *(token.expand(x.shape[0], -1, -1) for token in self.tokens)], 1).flatten(1)


def test_other_concatenations_stay() -> None:
    torch.manual_seed(0)
    head = LinearHead({"linear.weight": np.ones((4, 32), np.float32), "linear.bias": np.zeros(4, np.float32)})
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    content = export_onnx(Deployable(TokensBehind(1, "plain"), head, preprocessing, "uint8-nhwc").eval(), 8, {})
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert operators.count("Concat") >= 1
    assert "Pad" not in operators


def test_constants_larger_than_the_exporters_limit_are_folded() -> None:
    class Table(torch.nn.Module):
        """A bias read from a table by fixed indices, as windowed attention has it."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(4, 60))
            self.register_buffer("places", torch.randint(0, 60, (48, 48)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :48] + self.table[:, self.places].sum((0, 1))

    head = LinearHead({"linear.weight": np.ones((4, 48), np.float32), "linear.bias": np.zeros(4, np.float32)})
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    module = Deployable(Table(), head, preprocessing, "uint8-nhwc").eval()
    graph = onnx.load_from_string(export_onnx(module, 8, {})).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert [node.op_type for node in graph.node if node.input and set(node.input) <= constants] == []
    assert "GatherND" not in {node.op_type for node in graph.node}

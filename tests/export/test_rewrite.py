"""The optimiser that tries rules by operator: the same bytes as onnxscript's own, which tries all of them everywhere."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import pytest
import torch
from onnxscript.rewriter import _DEFAULT_REWRITE_RULES as EVERY_RULE
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.distill.students.student import create_backbone
from dhox.export.graphs import onnx_export
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.rewrite import RULES

SIZE = 32


class Shifts(nn.Module):
    """Windows of a map, rolled there and back (Swin), between operators that change nothing. [B, 3, 32, 32] to [B, 48]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        x = nn.functional.pad(x, (0, -x.shape[-1] % 5, 0, -x.shape[-2] % 5)).permute(0, 2, 3, 1)
        x = torch.roll(x, (-2, -2), (1, 2)).reshape(-1, 7, 5, 7, 5, 3).transpose(2, 3).reshape(-1, 25, 3)
        x = (x.relu().relu() * 1 + 0).reshape(-1, 7, 7, 5, 5, 3).transpose(2, 3).reshape(-1, 35, 35, 3)
        return torch.roll(x, (2, 2), (1, 2))[:, :4, :4, :].clamp(0, 4).clamp(1, 6).flatten(1)


def graph(backbone: nn.Module, width: int) -> Deployable:
    weights = {"linear.weight": np.ones((4, width), np.float32), "linear.bias": np.zeros(4, np.float32)}
    preprocessing = Preprocessing(SIZE, SIZE, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Deployable(exportable(backbone.eval()), LinearHead(weights), preprocessing, "uint8-nhwc").eval()


@pytest.mark.parametrize(
    "name", ["shifts", *(pytest.param(name, marks=pytest.mark.slow) for name in ("test_efficientnet", "test_vit"))]
)
def test_the_bytes_are_those_of_onnxscripts_optimiser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = Shifts() if name == "shifts" else create_backbone(name, "none", SIZE)[0]
    with torch.no_grad():
        width = backbone.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape[1]
    module = graph(backbone, width)
    ours = export_onnx(module, SIZE, {})

    def optimised_by_all(model: ir.Model) -> None:
        assert onnxscript.optimizer.optimize(model) is model

    monkeypatch.setattr(onnx_export, "optimise", optimised_by_all)
    assert ours == export_onnx(module, SIZE, {})


def test_each_rule_is_tried_where_its_pattern_ends() -> None:
    for operator, rules in RULES.items():
        for rule in rules:
            assert f"= {operator} (" in str(rule._target_pattern.output_nodes[0])
    ours = {str(rule) for rules in RULES.values() for rule in rules}
    left_out = {str(rule) for rule in EVERY_RULE} - ours
    assert not [name for name in left_out if "Integer" not in name and "QLinear" not in name]

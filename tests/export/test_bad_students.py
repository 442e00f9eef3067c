"""Students and runs that cannot be exported: one clear message each, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_example import rehash
from safetensors.torch import load_file, save_file
from torch import nn

from dhox import export
from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import Item, class_numbers
from dhox.distill.students.student import with_heads
from dhox.errors import DhoxError
from dhox.export.graphs.graph import Deployable, LinearHead
from dhox.export.graphs.onnx_export import export_onnx


class Newer(nn.Module):
    """Features by an operator that ONNX has since opset 20."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.mean((2, 3))
        found: torch.Tensor = torch.onnx.ops.symbolic("Gelu", (z,), dtype=z.dtype, shape=z.shape, version=20)
        return found


class Unknown(nn.Module):
    """Features by an operator that has no ONNX form."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x).mean(-1)


class Branching(nn.Module):
    """Features that depend on the images by a Python branch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Newer(), r"the operator Gelu, which opset 18 lacks \(ONNX has it since opset 20\).*Choose another student"),
        (Unknown(), r"torch's operator aten._linalg_svd, which has no ONNX form in opset 18\. Choose another student"),
        (Branching(), r"torch cannot export this student to ONNX: .*Choose another student"),
    ],
)
def test_a_student_that_opset_18_cannot_hold(backbone: nn.Module, message: str, capfd: pytest.CaptureFixture) -> None:
    head = LinearHead({"linear.weight": np.ones((2, 3), np.float32), "linear.bias": np.zeros(2, np.float32)})
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    with pytest.raises(DhoxError, match=message):
        export_onnx(Deployable(backbone, head, preprocessing, "uint8-nhwc").eval(), 8, {})


class Pair(nn.Module):
    """Two outputs, as distilled transformers have in training."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Conv2d(3, 5, 1), r"gives a tensor \[1, 5, 16, 16\] for one image.*a student that pools its features"),
        (Pair(), "gives a tuple for one image, not one tensor of features"),
    ],
)
def test_a_backbone_gives_one_vector_of_features(backbone: nn.Module, message: str) -> None:
    with pytest.raises(DhoxError, match=message):
        with_heads(backbone, 16, 3, two_heads=True)


def test_a_head_of_several_layers_is_named(own_line: Path) -> None:
    weights = own_line / "runs/tiny/student.safetensors"
    state = load_file(weights)
    state["ce_head.0.weight"] = state.pop("ce_head.weight")
    save_file(state, weights)
    rehash(own_line / "runs/tiny")
    with pytest.raises(DhoxError, match=r"its head is not one linear layer: ce_head\.0\.weight\)\. Train it again"):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("selection.json", r"Could not read .*selection\.json: No such file"),
        ("val.npz", r"val\.npz is missing or damaged .*Write it again with the stage that made it"),
        ("student.safetensors", r"student\.safetensors is missing"),
    ],
)
def test_an_incomplete_run_is_named(own_line: Path, name: str, message: str) -> None:
    (own_line / "runs/tiny" / name).unlink()
    with pytest.raises(DhoxError, match=message):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


def test_a_run_of_a_newer_dhox_is_named(own_line: Path) -> None:
    path = own_line / "runs/tiny/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "dhox.run/2"}))
    with pytest.raises(DhoxError, match="'dhox.run/2'.*'dhox.run/1'"):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


def test_classes_renamed_since_training_are_named(own_line: Path) -> None:
    for split in ("train", "val", "test"):
        (own_line / "data" / split / "bag").rename(own_line / "data" / split / "handbag")
    with pytest.raises(
        DhoxError, match=r"not those of the training\. New: handbag\. Missing: bag\. Name the classes as"
    ):
        export(own_line / "runs/tiny", Path("e"), data=own_line / "data")
    assert not Path("e").exists()
    items = [Item(Path("a.png"), "a.png", "handbag"), Item(Path("b.png"), "b.png", "shoe")]  # as a list names them
    with pytest.raises(DhoxError, match=r"New: handbag\. Missing: bag\."):
        class_numbers(items, ["bag", "shoe"])
    assert class_numbers(items, ["handbag", "other", "shoe"]).tolist() == [0, 2]

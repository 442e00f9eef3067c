"""Students and runs that cannot be exported: one clear message each, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refuses
from run_example import rehash
from safetensors.torch import load_file, save_file
from torch import nn

from dhox import export
from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import Item, class_numbers
from dhox.distill.students.student import with_heads
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
    ("backbone", "at", "facts"),
    [
        (Newer(), "onnx_contract._check_operators", ["Gelu", "opset 18", "opset 20"]),
        (Unknown(), "onnx_export.export_onnx", ["aten._linalg_svd", "opset 18"]),
        (Branching(), "onnx_export.export_onnx", ["Could not guard on data-dependent expression"]),  # torch's words
    ],
)
def test_a_student_that_opset_18_cannot_hold(
    backbone: nn.Module, at: str, facts: list, capfd: pytest.CaptureFixture
) -> None:
    head = LinearHead({"linear.weight": np.ones((2, 3), np.float32), "linear.bias": np.zeros(2, np.float32)})
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    with refuses(*facts, at=f"export.graphs.{at}", fix="student"):
        export_onnx(Deployable(backbone, head, preprocessing, "uint8-nhwc").eval(), 8, {})


class Pair(nn.Module):
    """Two outputs, as distilled transformers have in training."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))


@pytest.mark.parametrize(("backbone", "given"), [(nn.Conv2d(3, 5, 1), "[1, 5, 16, 16]"), (Pair(), "tuple")])
def test_a_backbone_gives_one_vector_of_features(backbone: nn.Module, given: str) -> None:
    with refuses(given, "[1, d]", at="distill.students.student.with_heads"):
        with_heads(backbone, 16, 3, two_heads=True)


def test_a_head_of_several_layers_is_named(own_line: Path) -> None:
    weights = own_line / "runs/tiny/student.safetensors"
    state = load_file(weights)
    state["ce_head.0.weight"] = state.pop("ce_head.weight")
    save_file(state, weights)
    rehash(own_line / "runs/tiny")
    with refuses("student.safetensors", "ce_head.0.weight", at="distill.students.student.load_student"):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


@pytest.mark.parametrize(
    ("name", "at", "fact"),
    [
        ("selection.json", "record.read_text", "No such file"),
        ("val.npz", "arrays.read_npz", "No such file"),
        ("student.safetensors", "files.check_hash", "run.json"),
    ],
)
def test_an_incomplete_run_is_named(own_line: Path, name: str, at: str, fact: str) -> None:
    (own_line / "runs/tiny" / name).unlink()
    with refuses(name, fact, at=f"artefacts.{at}"):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


def test_a_run_of_a_newer_dhox_is_named(own_line: Path) -> None:
    path = own_line / "runs/tiny/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "dhox.run/2"}))
    with refuses("run.json", "'dhox.run/2'", "'dhox.run/1'", at="artefacts.record.check_schema"):
        export(own_line / "runs/tiny", Path("e"))
    assert not Path("e").exists()


def test_classes_renamed_since_training_are_named(own_line: Path) -> None:
    for split in ("train", "val", "test"):
        (own_line / "data" / split / "bag").rename(own_line / "data" / split / "handbag")
    with refuses("New: handbag", "Missing: bag", at="data.dataset.check_labels"):
        export(own_line / "runs/tiny", Path("e"), data=own_line / "data")
    assert not Path("e").exists()
    items = [Item("a.png", "a.png", "handbag"), Item("b.png", "b.png", "shoe")]  # as a list names them
    with refuses("New: handbag", "Missing: bag", at="data.dataset.check_labels"):
        class_numbers(items, ["bag", "shoe"])
    assert class_numbers(items, ["handbag", "other", "shoe"]).tolist() == [0, 2]

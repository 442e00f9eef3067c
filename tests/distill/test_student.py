from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from refusals import refuses
from safetensors.torch import load_file, save_file

from dhox.artefacts.common import StudentSpec
from dhox.artefacts.shards import History
from dhox.distill.students.kd_head import KD_HEADS
from dhox.distill.students.student import create_backbone, load_student, preprocessing_of, save_student, with_heads
from dhox.distill.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 28), ("mobilenetv3_small_050", 32), ("test_vit", 32)])
def test_a_student_survives_its_file(tmp_path: Path, name: str, size: int) -> None:
    backbone, data = create_backbone(name, "none", size)
    student = with_heads(backbone, size, 4, two_heads=True)
    images = torch.randn(2, 3, size, size)
    save_student(student, tmp_path)
    again = load_student(tmp_path, StudentSpec(name, size, 4, True))
    with torch.no_grad():
        for ours, theirs in zip(student.eval()(images), again(images), strict=True):
            assert ours.shape == (2, 4)
            assert torch.allclose(ours, theirs, atol=1e-6)
    assert preprocessing_of(data).crop == size
    with refuses("student.safetensors", "run.json", at="distill.students.student.load_student"):
        load_student(tmp_path, StudentSpec(name, size, 5, True))


class Shared(torch.nn.Module):
    """Images [B, 3, 8, 8] to features [B, 4], by one layer that is used twice under two names (as in CoaT)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(192, 4)
        self.first = self.second = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.stem(x.flatten(1))).relu())


def test_a_parameter_with_two_names_survives_file_and_checkpoint(tmp_path: Path) -> None:
    student, again = (with_heads(Shared(), 8, 3, two_heads=True) for _ in range(2))
    images = torch.randn(2, 3, 8, 8)
    optimizers = [torch.optim.AdamW(each.parameters()) for each in (student, again)]
    student(images)[0].sum().backward()  # nothing for the KD head: it has no state
    optimizers[0].step()
    save_student(student, tmp_path)
    stored = load_file(tmp_path / "student.safetensors")
    assert torch.equal(stored["backbone.first.weight"], stored["backbone.second.weight"])
    save_checkpoint(tmp_path, 7, History(), "same", student, optimizers[0])
    assert load_checkpoint(tmp_path, "same", again, optimizers[1])[0] == 7
    assert again.backbone.first.weight is again.backbone.second.weight
    with torch.no_grad():
        assert torch.equal(student.eval()(images)[0], again.eval()(images)[0])


def test_single_head_methods_answer_twice_the_same() -> None:
    student = with_heads(create_backbone("test_resnet", "none", 28)[0], 28, 3, two_heads=False)
    ce, kd = student(torch.randn(2, 3, 28, 28))
    assert ce is kd


@pytest.mark.parametrize("kind", KD_HEADS)
def test_heads_compute_in_fp32_when_the_backbone_is_in_bf16(kind: str) -> None:
    student = with_heads(create_backbone("test_resnet", "none", 28)[0], 28, 50, two_heads=True, kd_kind=kind).eval()
    images = torch.randn(6, 3, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        z = student.backbone(images)
        answers = student(images)
    assert z.dtype == torch.bfloat16
    for found, expected in zip(answers, student.logits(z.float()), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    for parameter in student.ce_head.parameters():
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_come_from_local_files(tmp_path: Path, kind: str) -> None:
    source = timm.create_model("test_resnet", num_classes=1000)
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": source.state_dict()}, path)
    backbone, _ = create_backbone("test_resnet", str(path), None)
    assert torch.equal(backbone.conv1[0].weight, source.conv1[0].weight)


def test_weights_of_no_numbers_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with refuses("nan.safetensors", name, at="distill.weights_file.check_finite"):
        create_backbone("test_resnet", str(tmp_path / "nan.safetensors"), None)


def test_unknown_students_and_missing_files_are_explained(tmp_path: Path) -> None:
    with refuses("'resnet19'", at="distill.students.student.check_student_name", fix="resnet18"):
        create_backbone("resnet19", "none", None)
    with refuses("none.pth", at="distill.students.student_weights._read", fix=".safetensors"):
        create_backbone("test_resnet", str(tmp_path / "none.pth"), None)


def test_weights_that_cannot_be_downloaded_say_how_to_pass_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refuses(
        "mobilenetv4_conv_small",
        at="distill.students.student.create_backbone",
        fix=("--student-weights FILE", "--student-weights none"),
    ):
        create_backbone("mobilenetv4_conv_small", "pretrained", None)

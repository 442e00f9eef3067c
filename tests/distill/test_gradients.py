from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from lightning_fabric import Fabric
from quick_distill import quick
from refusals import refuses

from dhox.artefacts.files import sha256
from dhox.artefacts.metrics import read_gradients, read_metrics
from dhox.distill.students.student import Student, create_backbone, with_heads
from dhox.distill.training.gradients import gradient_conflict, stages
from dhox.distill.training.out_of_memory import out_of_memory


def test_known_gradients_have_known_conflicts() -> None:
    backbone = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        backbone[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        backbone[1].weight.fill_(1.0)
    one, other = backbone(torch.tensor([1.0, 0.0])).sum(), -backbone(torch.tensor([0.0, 1.0])).sum()
    rows = {row.stage: row for row in gradient_conflict(0, one, other, backbone)}
    assert set(rows) == {"0", "1", "backbone"}
    assert rows["0"].cosine == pytest.approx(0)  # (1, 0) and (0, -1)
    assert rows["1"].dot == pytest.approx(0)  # 1 and -0
    same = {row.stage: row for row in gradient_conflict(0, one, 3 * one, backbone)}
    assert same["backbone"].cosine == pytest.approx(1)
    assert same["backbone"].dot == pytest.approx(3 * 2)
    assert same["backbone"].sign_agreement == 1
    against = {row.stage: row for row in gradient_conflict(0, one, -one, backbone)}
    assert against["backbone"].cosine == pytest.approx(-1)
    assert against["backbone"].sign_agreement == 0


def test_stages_are_blocks_and_miss_no_parameter() -> None:
    backbone = timm.create_model("test_vit", num_classes=0)
    found = stages(backbone)
    assert {"blocks.0", "patch_embed", "norm"} <= set(found)
    assert sum(p.numel() for group in found.values() for p in group) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_probing_changes_no_bit_of_the_training(line: Path, precision: str) -> None:
    quick(line / "data", "runs/plain", shots=4, epochs=2, precision=precision, device="cpu")
    quick(line / "data", "runs/probed", shots=4, epochs=2, probe_gradients=2, precision=precision, device="cpu")
    assert sha256(Path("runs/plain/student.safetensors")) == sha256(Path("runs/probed/student.safetensors"))
    rows = read_gradients(Path("runs/probed/gradients.csv"))
    assert {row.step for row in rows} == {0, 2, 4}
    assert all(-1 <= row.cosine <= 1 and 0 <= row.sign_agreement <= 1 for row in rows)
    assert all(0 <= share <= 1 for share in read_metrics(Path("runs/probed/metrics.csv")).columns["head_agreement"])


class Hungry(Student):
    """A student whose forward runs out of memory above 12 images."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(images) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(images)


def test_out_of_memory_names_the_batch_that_fits() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    student = with_heads(create_backbone("test_resnet", "none", 28)[0], 28, 3, two_heads=True)
    student.__class__ = Hungry
    with (
        refuses(40, at="distill.training.out_of_memory", fix="--batch-labelled 2 --batch-unlabelled 8"),
        out_of_memory(student, 28, fabric, 8, 32),
    ):
        student(torch.zeros(40, 3, 28, 28))
    with pytest.raises(RuntimeError, match="shape"), out_of_memory(student, 28, fabric, 8, 32):
        raise RuntimeError("shape mismatch")

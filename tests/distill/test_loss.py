from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dhox.distill.training.loss import distillation_loss, training_loss


def logits(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) * 3


def test_distillation_is_kl_of_the_student_from_the_teacher_times_four() -> None:
    student, teacher = logits(7, 0), logits(7, 1)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    assert distillation_loss(student, teacher) == pytest.approx(expected.item(), rel=1e-5)
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_teachers_temperature_makes_its_targets_sharper_or_softer(temperature: float) -> None:
    student, teacher = logits(7, 0), logits(7, 1)
    p, q = (teacher / temperature).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    assert distillation_loss(student, teacher, None, temperature) == pytest.approx(expected.item(), rel=1e-5)
    labels = torch.tensor([0, 3])
    _, kd = training_loss(
        student, student, teacher, labels, use_ce=True, use_kd=True, teacher_temperature=temperature
    )  # fmt: skip
    parts = [distillation_loss(student[rows], teacher[rows], None, temperature) for rows in (slice(2), slice(2, None))]
    assert kd == pytest.approx(sum(part.item() for part in parts))


def test_loss_is_ce_on_labelled_rows_and_two_separate_means() -> None:
    ce_logits, kd_logits, teacher = logits(10, 0), logits(10, 1), logits(10, 2)
    labels = torch.tensor([0, 3, 1])
    ce, kd = training_loss(ce_logits, kd_logits, teacher, labels, use_ce=True, use_kd=True)
    assert ce == pytest.approx(F.cross_entropy(ce_logits[:3], labels).item())
    expected = distillation_loss(kd_logits[:3], teacher[:3]) + distillation_loss(kd_logits[3:], teacher[3:])
    assert kd == pytest.approx(expected.item())


def test_each_head_learns_from_its_own_loss_only() -> None:
    ce_logits, kd_logits = logits(6, 0).requires_grad_(), logits(6, 1).requires_grad_()
    ce, kd = training_loss(ce_logits, kd_logits, logits(6, 2), torch.tensor([1, 2]), use_ce=True, use_kd=True)
    (ce + kd).backward()
    assert ce_logits.grad is not None
    assert kd_logits.grad is not None
    assert ce_logits.grad[2:].abs().sum() == 0
    assert kd_logits.grad.abs().sum(-1).min() > 0


@pytest.mark.parametrize(("use_ce", "use_kd", "labelled"), [(True, False, 3), (False, True, 0), (True, True, 6)])
def test_missing_parts_are_zero(use_ce: bool, use_kd: bool, labelled: int) -> None:
    labels = torch.zeros(labelled, dtype=torch.int64)
    ce, kd = training_loss(logits(6, 0), logits(6, 1), logits(6, 2), labels, use_ce=use_ce, use_kd=use_kd)
    assert (ce > 0) == (use_ce and labelled > 0)
    assert (kd > 0) == use_kd
    assert torch.isfinite(ce + kd)


def test_the_top_k_mask_distils_the_teachers_likely_classes_alone() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 10), 3 * torch.randn(6, 10)
    assert torch.equal(distillation_loss(student, teacher, 10), distillation_loss(student, teacher))
    likely = teacher.topk(4, dim=-1).indices
    expected = distillation_loss(student.gather(-1, likely), teacher.gather(-1, likely))
    assert torch.equal(distillation_loss(student, teacher, 4), expected)
    changed = student.clone().scatter_(-1, teacher.topk(1, largest=False).indices, 99.0)
    assert torch.equal(distillation_loss(changed, teacher, 4), expected)

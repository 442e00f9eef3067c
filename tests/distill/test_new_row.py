"""A row that joins a head: the head's own arithmetic, and what is learned of planted features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dhox.distill.growing import new_row
from dhox.distill.growing.add_class import largest_shift, with_rows
from dhox.distill.growing.new_row import NewRow, PlainHead, learn_row, stored_rows
from dhox.distill.students.kd_head import KD_HEADS
from dhox.distill.students.student import Student

KINDS = st.sampled_from(KD_HEADS)
SEED = st.integers(0, 2**20)
D, C = 7, 5


def student_of(kind: str, seed: int) -> Student:
    torch.manual_seed(seed)
    student = Student(nn.Identity(), D, C, True, kind)
    for parameter in [*student.ce_head.parameters(), *student.kd_head.parameters()]:  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=1 if kind == "linear" else 0.2)
    return student.eval()


@given(kind=KINDS, seed=SEED, temperature=st.floats(0.1, 4), shift=st.floats(-5, 5))
@settings(max_examples=30)
def test_a_stored_row_answers_as_it_was_learned(kind: str, seed: int, temperature: float, shift: float) -> None:
    student, z = student_of(kind, seed), torch.randn(16, D, generator=torch.Generator().manual_seed(seed))
    head = PlainHead.of(kind, student.kd_head, temperature)  # type: ignore[arg-type]
    x = head.inputs(z)
    assert torch.allclose(head.logits(x) * temperature, student.logits(z)[1].double(), atol=2e-3)
    weight = torch.randn(D, dtype=torch.double)
    if head.length is not None:
        weight, shift = weight / weight.norm() * head.length, 0.0
    row = NewRow(weight, 0.0 if head.length is not None else 0.7, 1e-4, torch.zeros(0), torch.zeros(0))
    grown = with_rows(
        student, {"ce_head": dict(stored_rows("linear", row, PlainHead.of("linear", student.ce_head, 1.0), 0.0)),
                  "kd_head": dict(stored_rows(kind, row, head, shift))},
    )  # fmt: skip
    old, new = student.logits(z)[1], grown.logits(z)[1]
    assert torch.allclose(new[:, :-1], old, atol=1e-4)
    bias = 0.0 if head.length is not None else row.bias + shift
    assert torch.allclose(new[:, -1].double(), (x @ weight + bias) * temperature, atol=1e-2)


def planted(seed: int, n: int, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around centres, and which one each is around."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n) % len(centres)
    return centres[classes] + 0.4 * torch.randn(n, centres.shape[1], generator=generator), classes


@pytest.mark.parametrize("kind", KD_HEADS)
def test_a_class_apart_is_known_and_takes_nothing(kind: str) -> None:
    centres = 3 * torch.eye(C + 1, D)
    head = nn.Linear(D, C) if kind == "linear" else student_of(kind, 0).kd_head
    assert head is not None
    with torch.no_grad():
        head.weight.copy_(torch.eye(C, D) * (1.0 if kind == "linear" else 0.1))  # type: ignore[operator]
        if kind != "cosine-paper":
            head.bias.zero_()  # type: ignore[operator, union-attr]
    plain = PlainHead.of(kind, head, 1.0)
    z_old, classes = planted(1, 200, centres[:C])
    z_new, _ = planted(2, 10, centres[C:])
    row = learn_row(plain, z_new, z_old, classes)
    test_old, truth = planted(3, 500, centres[:C])
    test_new, _ = planted(4, 200, centres[C:])

    def answers(z: torch.Tensor) -> torch.Tensor:
        x = plain.inputs(z)
        return torch.cat([plain.logits(x), (x @ row.weight + row.bias)[:, None]], 1).argmax(1)

    assert (answers(test_new) == C).double().mean() > 0.9
    before = (plain.logits(plain.inputs(test_old)).argmax(1) == truth).double().mean()
    assert (answers(test_old) == truth).double().mean() > before - 0.01
    assert (row.of_new > plain.logits(plain.inputs(z_new)).max(1).values).double().mean() >= 0.9
    assert len(row.of_old) == 200
    assert row.strength in new_row.STRENGTHS


def test_cross_fitted_answers_are_those_of_rows_that_did_not_see_the_image() -> None:
    """Noise in many dimensions: a row knows its own ten images by heart, and none to come."""
    generator = torch.Generator().manual_seed(0)
    z_new, z_old = (torch.randn(n, 200, generator=generator) for n in (10, 60))
    plain = PlainHead.of("linear", nn.Linear(200, 3), 1.0)
    row = learn_row(plain, z_new, z_old, torch.arange(60) % 3)
    seen = z_new.double() @ row.weight + row.bias
    assert float(seen.mean() - row.of_new.mean()) > 0.5


@given(new=st.integers(2, 40), old=st.integers(5, 60))
def test_every_image_judges_once_and_whole_runs_of_new_ones_stay_together(new: int, old: int) -> None:
    folds = new_row._folds(new, old)
    assert torch.stack(folds).sum(0).tolist() == [1] * (new + old)
    assert all(bool(fold[:new].any()) and not bool(fold[:new].all()) for fold in folds)
    for fold in folds:
        places = np.flatnonzero(fold[:new].numpy())
        assert places.tolist() == [*range(places[0], places[-1] + 1)]


@pytest.mark.parametrize(("allowed", "expected"), [(0.5, 0.0), (0.2, -1.0), (0.05, -2.5)])
def test_the_shift_is_the_one_nearest_zero_that_is_allowed(allowed: float, expected: float) -> None:
    def loss(shift: float) -> float:
        return max(0.0, 0.3 + 0.1 * shift)

    assert largest_shift(loss, allowed) == pytest.approx(expected, abs=1e-5)
    assert loss(largest_shift(loss, allowed)) <= allowed + 1e-12

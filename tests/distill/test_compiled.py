"""torch.compile of a training: whole graphs, made in the first epoch and never again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quick_distill import quick
from torch._dynamo.utils import counters

from dhox.distill import run
from dhox.distill.students import student as students
from dhox.distill.training import train


@pytest.fixture
def graphs_by_epoch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many graphs dynamo had made at the end of each epoch. It captures them as for a GPU; eager runs them, so that
    no compiler is needed here."""
    compile_, write, graphs = torch.compile, train.save_checkpoint, []
    monkeypatch.setattr(torch, "compile", lambda what, **options: compile_(what, **{"backend": "eager", **options}))
    monkeypatch.setattr(run, "missing_for_compile", lambda device: None)

    def count_and_write(*args: object) -> None:
        graphs.append(counters["stats"]["unique_graphs"])
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "save_checkpoint", count_and_write)
    torch._dynamo.reset()
    counters.clear()
    return graphs


@pytest.mark.parametrize(
    "options",
    [
        {"student": "test_resnet"},
        {"student": "test_vit", "image_size": 32, "kd_head": "cosine-code"},
        pytest.param({"student": "test_vit", "image_size": 32, "top_k": 2}, marks=pytest.mark.slow),
        pytest.param({"student": "test_resnet", "method": "sho", "adapter": "tip-f"}, marks=pytest.mark.slow),
    ],
    ids=lambda options: " ".join(str(value) for value in options.values()),
)
def test_three_epochs_break_no_graph_and_compile_nothing_again(
    line: Path, graphs_by_epoch: list[int], options: dict[str, object]
) -> None:
    quick(line / "data", shots=4, epochs=3, compiled=True, **options)
    assert len(graphs_by_epoch) == 3
    assert graphs_by_epoch[0] >= 3  # the student, the losses, the views
    assert set(graphs_by_epoch) == {graphs_by_epoch[0]}
    assert not counters["graph_break"]


def test_a_wait_for_the_device_inside_a_student_is_a_break(
    line: Path, graphs_by_epoch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters see what they are there to see."""
    forward = students.Student.forward

    def and_look(self: students.Student, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ce, kd = forward(self, images)
        return ce + float(kd.sum().item() > 1e9), kd

    monkeypatch.setattr(students.Student, "forward", and_look)
    quick(line / "data", shots=4, compiled=True)
    assert counters["graph_break"]

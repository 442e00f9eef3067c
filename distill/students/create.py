"""From the options of `dhox distill` to a student ready to train: backbone, heads, and what they start from."""

from __future__ import annotations

from pathlib import Path

import torch

from dhox.artefacts.common import Preprocessing, StudentSpec
from dhox.distill.students.clip_tower import PREFIX, load_tower, text_embeddings
from dhox.distill.students.init_from import copy_earlier, earlier_student
from dhox.distill.students.student import Student, create_backbone, preprocessing_of, with_heads
from dhox.errors import UsageError


def create_student(
    name: str,
    weights: str,
    image_size: int | None,
    classes: list[str],
    *,
    two_heads: bool,
    kd_head: str = "linear",
    init_heads: str = "random",
    prompts: list[str],
    templates: list[str],
    init_from: Path | None = None,
    device: torch.device,
) -> tuple[Student, StudentSpec, Preprocessing]:
    """Create the student `name` (a timm model, or open_clip:...) with heads for the labels `classes`, in index order.

    `weights`: pretrained, none or a file. `kd_head`: one of KD_HEADS. `init_heads`: random, or text: the rows of every
    head are the class text embeddings of the student's own text tower (`prompts` in `templates`), biases 0.
    `init_from`: an earlier run directory, whose weights replace these. `device`: where the text tower runs; the student
    is on the CPU. Raises UsageError for options that exclude each other, DhoxError for unknown names and for weights
    that cannot be had or do not fit.
    """
    check_heads(name, weights, two_heads, kd_head, init_heads)
    earlier = None if init_from is None else earlier_student(init_from, name, kd_head, two_heads)
    if earlier is not None and init_heads == "random":
        weights = "none"  # every one of them would be overwritten
    tower = load_tower(name, weights, image_size) if name.startswith(PREFIX) else None
    if tower is not None:
        backbone, preprocessing = tower.backbone, tower.preprocessing
    else:
        backbone, data = create_backbone(name, weights, image_size)
        preprocessing = preprocessing_of(data)
    spec = StudentSpec(
        name, preprocessing.crop, len(classes), two_heads, kd_head, None if tower is None else tower.config
    )
    student = with_heads(backbone, spec.image_size, len(classes), two_heads, kd_head)
    if tower is not None and init_heads == "text":
        write_into_heads(student, text_embeddings(tower, prompts, templates, device))
    if earlier is not None:
        copy_earlier(student, earlier, classes)
    return student, spec, preprocessing


def check_heads(name: str, weights: str, two_heads: bool, kd_head: str, init_heads: str) -> None:
    """Raise UsageError where the options of the heads exclude each other."""
    if kd_head != "linear" and not two_heads:
        raise UsageError(f"--kd-head {kd_head} is for two heads.", "Use --method dho, or --kd-head linear.")
    if init_heads == "text" and not name.startswith(PREFIX):
        raise UsageError(
            f"--init-heads text needs a student with a text tower, and {name} has none.",
            "Use a student open_clip:..., or --init-heads random.",
        )
    if init_heads == "text" and weights == "none":
        raise UsageError("--init-heads text needs a trained text tower.", "Leave out --student-weights none.")


def write_into_heads(student: Student, text: torch.Tensor) -> None:
    """Language-aware initialisation (arXiv 2505.07675): W of every head <- text embeddings [C, d], biases 0."""
    with torch.no_grad():
        for head in (student.ce_head, student.kd_head):
            if head is not None:
                head.weight.copy_(text)  # type: ignore[operator]
                if getattr(head, "bias", None) is not None:
                    head.bias.zero_()  # type: ignore[operator]

"""From the options of `dhox distill` to a student ready to train: backbone, heads, and what they start from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from msgspec.structs import replace

from dhox.artefacts.common import Preprocessing, StudentSpec
from dhox.distill.options import Student as StudentOptions
from dhox.distill.students.clip_tower import PREFIX, load_tower, mean_text_embeddings, text_embeddings
from dhox.distill.students.image_size import check_image_size
from dhox.distill.students.init_from import copy_earlier, earlier_student
from dhox.distill.students.student import (
    Student,
    check_student_name,
    create_backbone,
    preprocessing_of,
    with_heads,
)
from dhox.errors import UsageError

TEXT_EMBEDDINGS = {"text": text_embeddings, "text-code": mean_text_embeddings}  # by --init-heads


class CreatedStudent(NamedTuple):
    """A student ready to train, on the CPU; what rebuilds it, and how it takes whole images."""

    model: Student
    spec: StudentSpec
    preprocessing: Preprocessing


def create_student(
    options: StudentOptions,
    classes: list[str],
    *,
    two_heads: bool,
    prompts: list[str],
    templates: list[str],
    device: torch.device,
) -> CreatedStudent:
    """Create the student of the options with heads for the labels `classes`, in index order.

    `prompts` in `templates`: what its own text tower embeds for `--init-heads text` and `text-code`, which give the
    rows of every head, biases 0. `device`: where that tower runs. Raises UsageError for options that exclude each
    other, DhoxError for unknown names and for weights that cannot be had or do not fit.
    """
    _check_heads(options, two_heads)
    name, weights, kd_head = options.student, options.student_weights, options.kd_head
    earlier = None if options.init_from is None else earlier_student(options.init_from, name, kd_head, two_heads)
    if earlier is not None and options.init_heads == "random":
        weights = "none"  # every one of them would be overwritten
    image_size = options.image_size
    tower = load_tower(name, weights, image_size) if name.startswith(PREFIX) else None
    if tower is not None:
        backbone, preprocessing = tower.backbone, tower.preprocessing
    else:
        backbone, data = create_backbone(name, weights, image_size)
        preprocessing = preprocessing_of(data)
    preprocessing = replace(preprocessing, decode=options.decode)
    spec = StudentSpec(
        name, preprocessing.crop, len(classes), two_heads, kd_head, None if tower is None else tower.config
    )
    try:
        student = with_heads(backbone, spec.image_size, len(classes), two_heads, kd_head)
    except (AssertionError, RuntimeError):  # of timm and of torch, often without a word
        if tower is None:
            check_image_size(name, spec.image_size)
        raise
    if tower is not None and options.init_heads != "random":
        _write_into_heads(student, TEXT_EMBEDDINGS[options.init_heads](tower, prompts, templates, device))
    if earlier is not None:
        copy_earlier(student, earlier, classes)
    return CreatedStudent(student, spec, preprocessing)


def check_student(options: StudentOptions) -> None:
    """What needs no DATA to be wrong: raise DhoxError for an unknown name, and for a size that it does not take."""
    if not options.student.startswith(PREFIX):
        check_student_name(options.student)
        if options.image_size is not None:
            check_image_size(options.student, options.image_size)


def _check_heads(options: StudentOptions, two_heads: bool) -> None:
    """Raise UsageError where the options of the heads exclude each other."""
    if options.kd_head != "linear" and not two_heads:
        raise UsageError(f"--kd-head {options.kd_head} is for two heads.", "Use --method dho, or --kd-head linear.")
    if options.init_heads != "random" and not options.student.startswith(PREFIX):
        raise UsageError(
            f"--init-heads {options.init_heads} needs a student with a text tower, and {options.student} has none.",
            "Use a student open_clip:..., or --init-heads random.",
        )
    if options.init_heads != "random" and options.student_weights == "none":
        raise UsageError(
            f"--init-heads {options.init_heads} needs a trained text tower.", "Leave out --student-weights none."
        )


def _write_into_heads(student: Student, text: torch.Tensor) -> None:
    """Language-aware initialisation (arXiv 2505.07675): W of every head <- text embeddings [C, d], biases 0."""
    with torch.no_grad():
        for head in (student.ce_head, student.kd_head):
            if head is not None:
                head.weight.copy_(text)  # type: ignore[operator]
                if getattr(head, "bias", None) is not None:
                    head.bias.zero_()  # type: ignore[operator]

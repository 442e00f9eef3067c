"""Out of memory: which batch would have fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from dhox.distill.student import Student
from dhox.errors import DhoxError


def is_out_of_memory(err: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)


@contextmanager
def out_of_memory(
    student: Student, image_size: int, fabric: Fabric, n_labelled: int, n_unlabelled: int
) -> Iterator[None]:
    """Turn a failed allocation in a training step into a message that names the largest halved batch that fits."""
    try:
        yield
        return
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        student.zero_grad(set_to_none=True)
        first_line = str(err).splitlines()[0]
    total, share = n_labelled + n_unlabelled, n_labelled / (n_labelled + n_unlabelled)
    fits = total // 2
    while fits >= 1 and not step_fits(student, image_size, fabric, fits):
        fits //= 2
    if not fits:
        raise DhoxError(
            f"Out of memory ({first_line}), even for one image. Choose a smaller --student or --image-size."
        )
    world = fabric.world_size
    labelled = max(1, round(fits * share)) if n_labelled else 0
    raise DhoxError(
        f"Out of memory ({first_line}) with {total} images per step{' and process' if world > 1 else ''}. {fits} fit: "
        f"use --batch-labelled {max(1, labelled) * world} --batch-unlabelled {max(1, fits - labelled) * world}."
    )


def step_fits(student: Student, image_size: int, fabric: Fabric, batch: int) -> bool:
    """Whether forward and backward of `batch` images fit into memory."""
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with fabric.autocast():
            ce_logits, kd_logits = student(torch.zeros(batch, 3, image_size, image_size, device=fabric.device))
        (ce_logits.float().mean() + kd_logits.float().mean()).backward()
    except RuntimeError as err:
        if not is_out_of_memory(err):
            raise
        return False
    finally:
        student.zero_grad(set_to_none=True)
    return True

"""Out of memory: which batch would have fitted."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from dhox.distill.students.student import Student
from dhox.errors import DhoxError


def _is_out_of_memory(err: RuntimeError) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)


@contextmanager
def out_of_memory(
    student: Student, image_size: int, fabric: Fabric, batch_labelled: int, batch_unlabelled: int
) -> Iterator[None]:
    """Turn a failed allocation of a training into a message that names the largest halved batch that fits.

    Batch sizes are of all processes together, as the options give them.
    """
    try:
        yield
        return
    except RuntimeError as err:
        if not _is_out_of_memory(err):
            raise
        traceback.clear_frames(err.__traceback__)  # their tensors would fill the memory that is tried below
        reason = str(err).splitlines()[0].rstrip(".")
    student.zero_grad(set_to_none=True)
    world, total = fabric.world_size, (batch_labelled + batch_unlabelled) // fabric.world_size
    fits = total // 2
    while fits >= 2 and not _step_fits(student, image_size, fabric, fits):
        fits //= 2
    if fits < 2:
        raise DhoxError(
            f"Out of memory ({reason}), even for two images.", "Choose a smaller --student or --image-size."
        )
    options = []
    labelled = max(1, fits * batch_labelled // (batch_labelled + batch_unlabelled)) if batch_labelled else 0
    if batch_labelled:
        options.append(f"--batch-labelled {labelled * world}")
    if batch_unlabelled:
        options.append(f"--batch-unlabelled {(fits - labelled) * world}")
    raise DhoxError(
        f"Out of memory ({reason}) with {total} images per step{' and process' if world > 1 else ''}.",
        f"{fits} fit: use {' '.join(options)}.",
    )


def _step_fits(student: Student, image_size: int, fabric: Fabric, batch: int) -> bool:
    """Whether forward and backward of `batch` images fit into memory beside AdamW's state."""
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()
    state: list[torch.Tensor] = []
    try:
        state += [torch.zeros_like(parameter) for parameter in student.parameters() for _ in range(2)]
        with fabric.autocast():
            ce_logits, kd_logits = student(torch.zeros(batch, 3, image_size, image_size, device=fabric.device))
        (ce_logits.float().mean() + kd_logits.float().mean()).backward()
    except RuntimeError as err:
        if not _is_out_of_memory(err):
            raise
        traceback.clear_frames(err.__traceback__)
        return False
    finally:
        student.zero_grad(set_to_none=True)
    return True

"""What a trained student answers: logits of whole images, and learning-curve metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch.utils.data import DataLoader

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.logits import HeadLogits, Logits
from dhox.data.dataset import Item, class_numbers
from dhox.data.images import model_input
from dhox.distill.images.pixels import WholeImages, to_model
from dhox.distill.processes import gather_rows, share_buffers
from dhox.distill.students.kd_head import norm, plain_parameters
from dhox.distill.students.student import Student
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA, dho_probs

BATCH = 256


def _student_pixels(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """A whole image as the exported model will see it, uint8 [size, size, 3]."""
    return torch.from_numpy(model_input(image, preprocessing).copy())


def pixel_loader(
    items: list[Item], preprocessing: Preprocessing, workers: int, fabric: Fabric
) -> DataLoader[torch.Tensor]:
    """This process's part items[rank::world] of whole images, in batches uint8 [b, size, size, 3]."""
    mine = WholeImages(
        items[fabric.global_rank :: fabric.world_size], partial(_student_pixels, preprocessing=preprocessing),
        preprocessing.jpeg_side,
    )  # fmt: skip
    return DataLoader(mine, batch_size=BATCH, num_workers=workers, pin_memory=fabric.device.type == "cuda")


def predict_logits(
    fabric: Fabric, student: Student, pixels: Iterable[torch.Tensor], n: int, preprocessing: Preprocessing
) -> HeadLogits:
    """The heads' logits of n whole images, in eval mode, on every process.

    In fp32 whatever the training's precision: that is what is stored, chosen on, reported, and exported. `pixels`:
    batches of this process's part of the images (see pixel_loader); every image counts exactly once.
    """
    share_buffers(fabric, student)
    student.eval()
    mine, done = len(range(fabric.global_rank, n, fabric.world_size)), 0
    parts = [np.empty((mine, width), np.float32) for width in (student.classes, student.classes, 1)]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for batch in pixels:
            z = student.backbone(to_model(fabric.to_device(batch), preprocessing.mean, preprocessing.std))
            for part, rows in zip(parts, (*student.logits(z), norm(z)), strict=True):
                part[done : done + len(batch)] = rows.cpu().numpy()
            done += len(batch)
    assert done == mine, f"{done} of {mine} images"
    ce_logits, kd_logits, norms = (gather_rows(fabric, part, n) for part in parts)
    answers = HeadLogits(ce_logits=ce_logits, kd_logits=kd_logits)
    if student.kd_head is None or student.kd_kind == "linear":
        return answers
    bias = plain_parameters(student.kd_kind, student.kd_head)[1].detach().float().cpu().numpy()
    return replace(answers, z_norms=norms[:, 0], kd_bias=bias)


def with_labels(
    heads: HeadLogits,
    items: list[Item],
    labels: list[str],
    *,
    teacher_predictions: np.ndarray | None = None,
    teacher_logits: np.ndarray | None = None,
) -> Logits:
    """val.npz or test.npz of whole images, with what the teacher answers to them, where there is one."""
    groups = [item.group or "" for item in items]
    return Logits(
        **vars(heads), labels=class_numbers(items, labels), names=np.array([item.name for item in items], np.str_),
        groups=np.array(groups, np.str_) if any(groups) else None,
        teacher_predictions=teacher_predictions, teacher_logits=teacher_logits,
    )  # fmt: skip


def with_unlabelled(val: Logits, heads: HeadLogits, teacher_predictions: np.ndarray | None) -> Logits:
    """val.npz with what the heads and the teacher answer to unlabelled images."""
    return replace(
        val, unlabelled_ce_logits=heads.ce_logits, unlabelled_kd_logits=heads.kd_logits,
        unlabelled_z_norms=heads.z_norms, unlabelled_teacher_predictions=teacher_predictions,
    )  # fmt: skip


def validation_metrics(heads: HeadLogits, labels: np.ndarray, two_heads: bool) -> dict[str, float]:
    """Accuracies for the learning curves and the share of images that both heads answer alike, in [0, 1]."""
    ce_answers, kd_answers = heads.ce_logits.argmax(-1), heads.kd_logits.argmax(-1)
    if not two_heads:
        return {"val_accuracy": float((ce_answers == labels).mean())}
    parts = (heads.of(np.arange(start, min(start + BATCH, len(heads)))) for start in range(0, len(heads), BATCH))
    mixed = [dho_probs(part.ce_logits, part.kd_logits, FIXED_ALPHA, FIXED_BETA).argmax(-1) for part in parts]
    answers = {"ce_head": ce_answers, "kd_head": kd_answers, "dho_fixed": np.concatenate(mixed)}
    metrics = {f"val_{name}": float((answer == labels).mean()) for name, answer in answers.items()}
    return metrics | {"head_agreement": float((ce_answers == kd_answers).mean())}

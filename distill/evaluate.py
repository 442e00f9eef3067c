"""What a trained student answers: logits of whole images, and learning-curve metrics."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch.utils.data import DataLoader

from dhox.dataset import Item, class_numbers
from dhox.distill.pixels import WholeImages, to_model
from dhox.distill.student import Student
from dhox.heads import FIXED_ALPHA, FIXED_BETA, dho_probs
from dhox.images import Preprocessing, model_input


def student_pixels(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """A whole image as the exported model will see it, uint8 [size, size, 3]."""
    return torch.from_numpy(model_input(image, preprocessing).copy())


def predict_logits(
    fabric: Fabric, student: Student, items: list[Item], preprocessing: Preprocessing, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """(CE logits, KD logits) of whole images, float32 [N, C] each, in eval mode."""
    student.eval()
    transform = partial(student_pixels, preprocessing=preprocessing)
    loader = DataLoader(WholeImages(items, transform), batch_size=256, num_workers=workers)
    parts = []
    with torch.inference_mode():
        for pixels in loader:
            logits = student(to_model(fabric.to_device(pixels), preprocessing.mean, preprocessing.std))
            parts.append([part.float().cpu().numpy() for part in logits])
    ce_logits, kd_logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ce_logits, kd_logits


def logit_arrays(
    fabric: Fabric, model: Any, items: list[Item], labels: list[str], preprocessing: Any, workers: int
) -> dict[str, np.ndarray]:
    """Both heads' logits float32 [N, C], labels [N] and names [N] of whole images: val.npz and test.npz."""
    empty = np.zeros((0, len(labels)), np.float32)
    ce_logits, kd_logits = predict_logits(fabric, model, items, preprocessing, workers) if items else (empty, empty)
    return {
        "ce_logits": ce_logits,
        "kd_logits": kd_logits,
        "labels": class_numbers(items, labels),
        "names": np.array([item.name for item in items], dtype=np.str_),
    }


def validation_metrics(
    ce_logits: np.ndarray, kd_logits: np.ndarray, labels: np.ndarray, two_heads: bool
) -> dict[str, float]:
    """Accuracies for the learning curves, in [0, 1]."""
    if not two_heads:
        return {"val_accuracy": float((ce_logits.argmax(-1) == labels).mean())}
    mixture = dho_probs(ce_logits, kd_logits, FIXED_ALPHA, FIXED_BETA)
    predictions = {"ce_head": ce_logits, "kd_head": kd_logits, "dho_fixed": mixture}
    return {f"val_{name}": float((scores.argmax(-1) == labels).mean()) for name, scores in predictions.items()}

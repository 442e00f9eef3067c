"""The student that was loaded against the logits that training stored of the same images."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.files import RUN_FILE
from dhox.artefacts.logits import VAL_FILE, HeadLogits
from dhox.artefacts.run_directory import RunDirectory
from dhox.data.dataset import spread
from dhox.distill.results.evaluate import BATCH, predict_logits
from dhox.distill.students.student import Student
from dhox.errors import DhoxError
from dhox.evidence.same_images import changed
from dhox.export.check_images import CheckImages
from dhox.export.parity import val_rows

MOST_IMAGES = 128
ALLOWED = 0.01  # root mean square of an image's differences, in standard deviations of the stored logits over C


def check_stored_answers(source: RunDirectory, student: Student, images: CheckImages, pixels: np.ndarray) -> None:
    """Hold the student's logits of validation images, uint8 [N, H, W, 3], against val.npz of its run: of MOST_IMAGES,
    and of those whose file is another than at training.

    Nothing is said where the images are none of validation. Raises DhoxError where they differ by more than fp32 on
    another device explains.
    """
    rows = val_rows(source.validation, images.names) if len(source.validation) else None
    if rows is None:
        return
    _check_labels(source, images, rows)
    changed_names = set(changed(images.items, source.images.by_name("val")))
    chosen = np.array(sorted({*spread([*range(len(rows))], MOST_IMAGES),
                              *(i for i, name in enumerate(images.names) if name in changed_names)}))  # fmt: skip
    stored = source.validation.of(rows[chosen])
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    batches = torch.from_numpy(pixels[chosen]).split(BATCH)
    found = predict_logits(fabric, student, batches, len(chosen), source.run.preprocessing)
    differences = largest_differences(found, stored)
    wrong = differences > ALLOWED
    if wrong.any():
        first = images.names[chosen[wrong.argmax()]]
        raise DhoxError(
            f"The student in {source.path} answers {wrong.sum()} of {len(chosen)} validation images otherwise than "
            f"after its training: logits differ by up to {differences.max():.2g} of their spread (allowed: "
            f"{ALLOWED:g}), first on {first}{', whose file changed since' if first in changed_names else ''}.",
            "Restore the images, or train again."
            if first in changed_names
            else "Its weights and these images are those of the training: mend the preprocessing in run.json, or train "
            "again.",
        )


def _check_labels(source: RunDirectory, images: CheckImages, rows: np.ndarray) -> None:
    """Raise DhoxError where a validation image has another label than at training: classes or DATA are others."""
    now, then = images.labels, source.validation.labels[rows]
    if now is None or (now == then).all():
        return
    first, labels = int((now != then).argmax()), source.run.labels
    raise DhoxError(
        f"{(now != then).sum()} of {len(rows)} validation images have other labels than at training, first "
        f"{images.names[first]}: {labels[now[first]]} now, {labels[then[first]]} in {VAL_FILE}.",
        f"Restore the classes in {RUN_FILE} or the labels of DATA, or train again.",
    )


def largest_differences(found: HeadLogits, stored: HeadLogits) -> np.ndarray:
    """Per image [N], the larger of both heads' differences: root mean square over the spread of the stored logits."""
    each = []
    for head in ("ce_logits", "kd_logits"):
        new, old = getattr(found, head).astype(np.float64), getattr(stored, head).astype(np.float64)
        spread_of_all = max(float(old.std(axis=1).mean()), 1e-12)
        each.append(np.sqrt(((new - old) ** 2).mean(axis=1)) / spread_of_all)
    return np.maximum(*each)

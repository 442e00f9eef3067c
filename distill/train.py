"""The training loop of dho and its baselines, in one function.

Out of scope here: reading DATA, choosing sets, the teacher's pass (all before), selection and files (all after).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, isfinite, pi

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from dhox.console import progress_bar
from dhox.dataset import Item, read_image
from dhox.distill.loss import CE_WEIGHT, training_loss
from dhox.distill.pixels import to_model
from dhox.distill.student import Student
from dhox.distill.views import render, view_of
from dhox.errors import DhoxError
from dhox.images import Preprocessing

WARM_UP_SHARE = 0.1


class StudentViews(Dataset[tuple[torch.Tensor, int, int]]):
    """Index (image, view) to (uint8 [size, size, 3], image, view)."""

    def __init__(self, items: list[Item], seed: int, preprocessing: Preprocessing) -> None:
        self.items, self.seed, self.preprocessing = items, seed, preprocessing

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        number, view = index
        item = self.items[number]
        image = read_image(item)
        box = view_of(self.seed, item.name, view, *image.size)
        pixels = render(image, box, self.preprocessing.crop, self.preprocessing.interpolation)
        return torch.from_numpy(pixels.copy()), number, view


def endless(first: int, count: int, generator: np.random.Generator) -> Iterator[int]:
    """The numbers first .. first + count - 1, reshuffled for every pass."""
    while True:
        yield from (first + generator.permutation(count)).tolist()


def training_batches(
    n_labelled: int, n_unlabelled: int, batch_labelled: int, batch_unlabelled: int, steps: int, views: int, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """`steps` batches of (image, view): labelled images first (numbers from 0), then unlabelled ones."""
    order_labelled, order_unlabelled, order_views = (np.random.default_rng((seed, part)) for part in range(3))
    labelled = endless(0, n_labelled, order_labelled)
    unlabelled = endless(n_labelled, n_unlabelled, order_unlabelled)
    for _ in range(steps):
        images = [next(labelled) for _ in range(batch_labelled)] + [next(unlabelled) for _ in range(batch_unlabelled)]
        yield list(zip(images, order_views.integers(views, size=len(images)).tolist(), strict=True))


def steps_per_epoch(n_labelled: int, n_unlabelled: int, batch_labelled: int, batch_unlabelled: int) -> int:
    """An epoch is one pass over U, or over L where U is empty.

    The method does not matter: labels-only training takes as many steps as DHO on the same DATA.
    """
    n, batch = (n_unlabelled, batch_unlabelled) if n_unlabelled else (n_labelled, batch_labelled)
    return -(-n // min(batch, n))


def train(
    fabric: Fabric,
    student: Student,
    items: list[Item],
    labels: torch.Tensor,
    teacher_embeddings: torch.Tensor | None,
    teacher_logits: Callable[[torch.Tensor], torch.Tensor],
    preprocessing: Preprocessing,
    *,
    use_ce: bool,
    use_kd: bool,
    epochs: int,
    epoch_steps: int,
    batch_labelled: int,
    batch_unlabelled: int,
    learning_rate: float,
    weight_decay: float,
    views: int,
    seed: int,
    workers: int,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> None:
    """Train the student in place; the last weights are kept.

    `items`: L then U. `labels`: int64 [N_L]. `teacher_embeddings`: float16 [N, views, D], None for a method without
    the teacher; `teacher_logits` maps embeddings [B, D] to logits [B, C]. One forward per step over cat(L, U), so
    BatchNorm sees both. AdamW; linear warm-up over a tenth of the steps, then cosine to 0. `on_epoch` is called with
    the epoch (from 1) and its mean metrics. Raises DhoxError where a loss is no longer finite.
    """
    n_labelled, n_unlabelled = len(labels), len(items) - len(labels)
    batch_labelled, batch_unlabelled = min(batch_labelled, n_labelled), min(batch_unlabelled, n_unlabelled)
    steps = epochs * epoch_steps

    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=weight_decay)
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + cos(pi * max(step - warm_up, 0) / max(steps - warm_up, 1)))),
    )
    model, optimizer = fabric.setup(student, optimizer)
    model.train()

    batches = training_batches(n_labelled, n_unlabelled, batch_labelled, batch_unlabelled, steps, views, seed)
    dataset = StudentViews(items, seed, preprocessing)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    labels = fabric.to_device(labels)
    sums = torch.zeros(2, device=fabric.device)

    with progress_bar("Training images", steps * (batch_labelled + batch_unlabelled)) as advance:
        for step, (pixels, numbers, view_numbers) in enumerate(loader, start=1):
            # Forward: one pass over labelled and unlabelled views.
            ce_logits, kd_logits = model(to_model(fabric.to_device(pixels), preprocessing.mean, preprocessing.std))
            target_logits = kd_logits
            if teacher_embeddings is not None:
                target_logits = teacher_logits(fabric.to_device(teacher_embeddings[numbers, view_numbers]).float())
            batch_labels = labels[fabric.to_device(numbers[:batch_labelled])]

            # Loss, backward, step.
            ce, kd = training_loss(ce_logits, kd_logits, target_logits, batch_labels, use_ce=use_ce, use_kd=use_kd)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(CE_WEIGHT * ce + (1 - CE_WEIGHT) * kd)
            optimizer.step()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()

            # Metrics, without a synchronisation inside the epoch.
            sums += torch.stack([ce.detach(), kd.detach()])
            advance(len(pixels))
            if step % epoch_steps == 0:
                ce_mean, kd_mean = (sums / epoch_steps).tolist()
                sums.zero_()
                if not isfinite(ce_mean + kd_mean):
                    raise DhoxError(
                        f"Training diverged in epoch {step // epoch_steps} (CE loss {ce_mean}, KD loss {kd_mean}). "
                        "Lower --learning-rate, or use --precision 32-true."
                    )
                on_epoch(step // epoch_steps, {"ce_loss": ce_mean, "kd_loss": kd_mean, "learning_rate": rate})
                model.train()

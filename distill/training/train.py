"""The training loop of dho and its baselines, in one function.

Out of scope: reading DATA, choosing sets, the teacher's pass, packing (all before), selection and files (all after).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, isfinite, pi
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dhox.artefacts.metrics import GRADIENTS_FILE, read_gradients, write_gradients
from dhox.artefacts.shards import EpochMetrics, History
from dhox.console import progress_bar
from dhox.data.dataset import shorten
from dhox.distill.students.student import Student
from dhox.distill.training.checkpoint import load_checkpoint, save_checkpoint
from dhox.distill.training.gradients import gradient_conflict
from dhox.distill.training.loss import CE_WEIGHT, training_loss
from dhox.distill.training.prefetch import Batch
from dhox.errors import DhoxError

NEVER = 2**62


class DivergedError(DhoxError):
    """A loss or a weight is no longer finite."""


def steps_per_epoch(n: int, batch: int) -> int:
    """An epoch is one pass over n images: U, or L where U is empty or the recipe says so.

    The method does not matter: labels-only training takes as many steps as DHO on the same DATA.
    """
    return -(-n // min(batch, n))


def learning_rate_at(step: int, steps: int, peak: float, warm_up: float, schedule: str) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up over a share of the steps, then cosine or linear to 0."""
    n_warm_up = round(warm_up * steps)
    rest = (step - n_warm_up) / max(steps - n_warm_up, 1)
    decay = 0.5 * (1 + cos(pi * max(rest, 0.0))) if schedule == "cosine" else 1 - max(rest, 0.0)
    return peak * min((step + 1) / max(n_warm_up, 1), decay)


def train(
    fabric: Fabric,
    student: Student,
    labels: torch.Tensor,
    names: list[str],
    batches: Callable[[range], Iterator[Batch]],
    images_of: Callable[[Batch], torch.Tensor],
    teacher_logits: Callable[[torch.Tensor], torch.Tensor] | None,
    *,
    use_ce: bool,
    use_kd: bool,
    epochs: int,
    epoch_steps: int,
    n_labelled: int,
    n_unlabelled: int,
    learning_rate: float,
    weight_decay: float,
    warm_up: float,
    schedule: str,
    top_k: int | None,
    seed: int,
    compiled: bool,
    probe_gradients: int,
    identity: str,
    run: Path,
    validate: Callable[[], dict[str, float]],
    record: Callable[[int, dict[str, float]], None],
) -> None:
    """Train the student in place; the last weights are kept.

    `labels`: int64 [N_L]; `names`: of all training images, L first, for messages. `batches` gives the host batches of a
    range of steps, this process's part of them: `n_labelled` and `n_unlabelled` rows each. `images_of` turns a batch
    into normalised images [B, 3, H, W] on the device. `teacher_logits` maps a batch's signal on the device to logits
    [B, C]; None for a method without the teacher. One forward per step over cat(L, U), so BatchNorm sees both. AdamW.

    Continues from the checkpoint in `run`, where there is one, and writes one after every epoch; a resumed training
    gives the same bits on a CPU. `probe_gradients`: measure the gradient conflict every so many steps (0: never). After
    every epoch (from 1) `validate` gives metrics to add to the losses, and `record` takes all of them, on every
    process; a resumed training records its earlier epochs first. `identity`: of the training images, so that a
    checkpoint of others is refused. Raises DivergedError where a loss or a weight is no longer finite.
    """
    steps = epochs * epoch_steps
    if fabric.device.type == "cuda":
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    first_step, history = load_checkpoint(run, identity, student, optimizer)
    conflicts = [row for row in read_gradients(run / GRADIENTS_FILE) if row.step < first_step]
    for row in history.epochs:
        record(row.epoch, row.metrics)
    forward = torch.compile(student) if compiled else student
    model, optimizer = fabric.setup(forward, optimizer)
    loss_of = torch.compile(training_loss) if compiled else training_loss

    labels = fabric.to_device(labels)
    sums = torch.zeros(2, device=fabric.device)
    first_bad = torch.full((), NEVER, device=fabric.device)
    batch_size = (n_labelled + n_unlabelled) * fabric.world_size
    student.train()
    model.train()

    with (
        progress_bar("Training images", steps * batch_size) as advance,
    ):
        advance(first_step * batch_size)
        for step, batch in enumerate(batches(range(first_step, steps)), start=first_step):
            # Forward: one pass over labelled and unlabelled views. Dropout is a function of (seed, step, rank).
            torch.manual_seed((seed << 32) + step * fabric.world_size + fabric.global_rank)
            images = images_of(batch)
            ce_logits, kd_logits = model(images)
            targets = kd_logits
            if teacher_logits is not None and batch.signal is not None:
                targets = teacher_logits(fabric.to_device(batch.signal))
            batch_labels = labels[fabric.to_device(batch.numbers[:n_labelled])]

            # Loss, backward, step.
            ce, kd = loss_of(ce_logits, kd_logits, targets, batch_labels, use_ce=use_ce, use_kd=use_kd, top_k=top_k)
            if probe_gradients and step % probe_gradients == 0:
                conflicts += gradient_conflict(step, ce, kd, student.backbone)
            fabric.backward(CE_WEIGHT * ce + (1 - CE_WEIGHT) * kd)
            rate = learning_rate_at(step, steps, learning_rate, warm_up, schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            # Metrics, without a synchronisation inside the epoch.
            losses = torch.stack([ce.detach(), kd.detach()])
            sums += losses
            first_bad = torch.where(losses.isfinite().all(), first_bad, first_bad.clamp(max=step))
            advance(batch_size)
            if (step + 1) % epoch_steps:
                continue

            # The end of an epoch: one synchronisation, validation, checkpoint.
            epoch = (step + 1) // epoch_steps
            ce_mean, kd_mean = (fabric.all_reduce(sums) / epoch_steps).tolist()
            finite = torch.stack([parameter.isfinite().all() for parameter in student.parameters()]).all()
            first_bad = torch.where(finite, first_bad, first_bad.clamp(max=step))
            bad_step = int(fabric.all_reduce(first_bad.double(), reduce_op="min"))
            sums.zero_()
            if bad_step != NEVER or not isfinite(ce_mean + kd_mean):
                raise diverged(min(bad_step, step), batches, names, history, epoch_steps, run)
            metrics = {"ce_loss": ce_mean, "kd_loss": kd_mean, "learning_rate": rate, **validate()}
            record(epoch, metrics)
            history.epochs.append(EpochMetrics(epoch, metrics))
            if fabric.is_global_zero:
                if conflicts:
                    write_gradients(run / GRADIENTS_FILE, conflicts)
                save_checkpoint(run, step + 1, history, identity, student, optimizer.optimizer)
            student.train()
            model.train()


def diverged(
    step: int,
    batches: Callable[[range], Iterator[Batch]],
    names: list[str],
    history: History,
    epoch_steps: int,
    run: Path,
) -> DivergedError:
    """The error of a loss or of weights that are not finite: the step, its images, and what is kept."""
    numbers = next(iter(batches(range(step, step + 1)))).numbers.tolist()
    what = (
        f"Training diverged: the loss or the weights of step {step} (epoch {step // epoch_steps + 1}) are not finite. "
        f"Its images: {shorten([f'{number} {names[number]}' for number in numbers], 4)}."
    )
    if not history.epochs:
        return DivergedError(what, "Look at them; lower --learning-rate, or use --precision 32-true.")
    return DivergedError(
        what,
        f"Look at them; the checkpoint of epoch {len(history.epochs)} is kept in {run}: go on from there with "
        "--resume and a lower --learning-rate, or with --precision 32-true.",
    )

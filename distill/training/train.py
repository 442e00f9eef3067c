"""The training loop of dho and its baselines, in one function.

Out of scope: reading DATA, choosing sets, the teacher's pass, packing (all before), selection and files (all after).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dhox.artefacts.metrics import GRADIENTS_FILE, read_gradients, validation_of, write_gradients
from dhox.artefacts.shards import EpochMetrics
from dhox.data.dataset import shorten
from dhox.distill.options import Training
from dhox.distill.students.student import Student
from dhox.distill.training.checkpoint import load_checkpoint, save_checkpoint
from dhox.distill.training.gradients import GradientProbe
from dhox.distill.training.loss import CE_WEIGHT, training_loss
from dhox.distill.training.memory_format import to_channels_last
from dhox.distill.training.prefetch import Batches
from dhox.distill.training.steps import Steps
from dhox.errors import DhoxError
from dhox.progress import progress_bar

NEVER = 2**62


class DivergedError(DhoxError):
    """A loss or a weight is no longer finite."""


@dataclass(frozen=True)
class Job:
    """What a training is made of, besides its student.

    `names`: of all training images, L first, for messages. `top_k`, `teacher_temperature`: see
    dhox.distill.training.loss. `identity`: of the images and sizes, so that a checkpoint of others is refused. `peak`:
    of the learning rate.
    """

    batches: Batches
    names: list[str]
    steps: Steps
    options: Training
    peak: float
    top_k: int | None
    teacher_temperature: float
    compiled: bool
    identity: str


def learning_rate_at(step: int, steps: int, peak: float, warm_up: float, schedule: str) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up over a share of the steps, then cosine or linear to 0."""
    n_warm_up = round(warm_up * steps)
    rest = (step - n_warm_up) / max(steps - n_warm_up, 1)
    decay = 0.5 * (1 + cos(pi * max(rest, 0.0))) if schedule == "cosine" else 1 - max(rest, 0.0)
    return peak * min((step + 1) / max(n_warm_up, 1), decay)


def train(
    fabric: Fabric,
    student: Student,
    job: Job,
    run: Path,
    validate: Callable[[], dict[str, float]],
    record: Callable[[int, dict[str, float]], None],
) -> None:
    """Train the student in place; the last weights are kept.

    One forward per step over cat(L, U), so BatchNorm sees both. AdamW. Continues from the checkpoint in `run`, where
    there is one, and writes one after every epoch; a resumed training gives the same bits on a CPU. After every epoch
    (from 1) `validate` gives metrics to add to the losses, and `record` takes all of them, on every process; a resumed
    training records its earlier epochs first. Raises DivergedError where a loss or a weight is no longer finite.
    """
    options, batches, inputs, targets = job.options, job.batches, job.batches.inputs, job.batches.targets
    steps, epoch_steps, n_labelled = job.steps.total, job.steps.epoch_steps, batches.n_labelled
    use_ce, use_kd = options.uses
    to_channels_last(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=job.peak, weight_decay=options.weight_decay, fused=True)
    first_step, history = load_checkpoint(run, job.identity, student, optimizer)
    conflicts = [row for row in read_gradients(run / GRADIENTS_FILE) if row.step < first_step]
    for row in history.epochs:
        record(row.epoch, row.metrics)
    forward = torch.compile(student) if job.compiled else student
    model, optimizer = fabric.setup(forward, optimizer)
    loss_of = torch.compile(training_loss) if job.compiled else training_loss

    labels = fabric.to_device(torch.from_numpy(batches.sampler.labels))
    sums = torch.zeros(2, device=fabric.device)
    first_bad = torch.full((), NEVER, device=fabric.device)
    batch_size = job.steps.batch_labelled + job.steps.batch_unlabelled
    student.train()
    model.train()

    with progress_bar("Training images", steps * batch_size, first_step * batch_size) as advance:
        for step, batch in enumerate(batches.of(range(first_step, steps)), start=first_step):
            # Forward: one pass over labelled and unlabelled views. Dropout is a function of (seed, step, rank).
            torch.manual_seed((options.seed << 32) + step * fabric.world_size + fabric.global_rank)
            images = inputs.on_device(batch.numbers, batch.views)
            ce_logits, kd_logits = model(images)
            teacher_logits = kd_logits
            if targets is not None and batch.targets is not None:
                teacher_logits = targets.logits(fabric.to_device(batch.targets))
            batch_labels = labels[fabric.to_device(batch.numbers[:n_labelled])]

            # Loss, backward, step.
            ce, kd = loss_of(
                ce_logits, kd_logits, teacher_logits, batch_labels, use_ce=use_ce, use_kd=use_kd, top_k=job.top_k,
                teacher_temperature=job.teacher_temperature,
            )  # fmt: skip
            if options.probe_gradients and step % options.probe_gradients == 0:
                probe = GradientProbe(step, ce, kd, student.backbone)
                fabric.backward(probe)
                conflicts += probe.rows
            fabric.backward(CE_WEIGHT * ce + (1 - CE_WEIGHT) * kd)
            rate = learning_rate_at(step, steps, job.peak, options.warm_up, options.schedule)
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
                raise diverged(min(bad_step, step), job, len(history.epochs), run)
            metrics = {"ce_loss": ce_mean, "kd_loss": kd_mean, "learning_rate": rate, **validate()}
            record(epoch, metrics)
            advance(0, epoch_note(epoch, steps // epoch_steps, metrics))
            history.epochs.append(EpochMetrics(epoch, metrics))
            if fabric.is_global_zero:
                if conflicts:
                    write_gradients(run / GRADIENTS_FILE, conflicts)
                save_checkpoint(run, step + 1, history, job.identity, student, optimizer.optimizer)
            student.train()
            model.train()


def epoch_note(epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    """What a finished epoch says of itself: losses of the method, and accuracy on validation where there is one."""
    names = {"ce_loss": "CE loss", "kd_loss": "KD loss"}
    losses = [f"{text} {metrics[name]:.3f}" for name, text in names.items() if metrics[name]]
    accuracy = validation_of(metrics)
    validated = [] if accuracy is None else [f"validation {100 * accuracy:.1f} %"]
    return ", ".join([f"epoch {epoch} of {epochs}", *losses, *validated])


def diverged(step: int, job: Job, epochs_kept: int, run: Path) -> DivergedError:
    """The error of a loss or of weights that are not finite: the step, its images, and what is kept."""
    numbers = next(iter(job.batches.of(range(step, step + 1)))).numbers.tolist()
    epoch = step // job.steps.epoch_steps + 1
    what = (
        f"Training diverged: the loss or the weights of step {step} (epoch {epoch}) are not finite. "
        f"Its images: {shorten([f'{number} {job.names[number]}' for number in numbers], 4)}."
    )
    if not epochs_kept:
        return DivergedError(what, "Look at them; lower --learning-rate, or use --precision 32-true.")
    return DivergedError(
        what,
        f"Look at them; the checkpoint of epoch {epochs_kept} is kept in {run}: go on from there with "
        "--resume and a lower --learning-rate, or with --precision 32-true.",
    )

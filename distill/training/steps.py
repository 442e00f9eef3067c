"""How long a training is: its batches and steps, from the sets alone, so that --dry-run says what training does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dhox.distill.images.sets import Sets
from dhox.distill.options import DistillOptions, Training
from dhox.distill.processes import per_process
from dhox.errors import DhoxError

EPOCHS = 30  # where neither --epochs nor --steps says
EPOCH_STEPS = 64  # that an epoch has where no batch size is given, as far as the smallest sizes allow


@dataclass(frozen=True)
class Steps:
    """`epoch_steps`: steps of an epoch; batches are images per step, of all processes together.

    `views`: views per image to draw from; never more than passes over the images, which would never be drawn.
    """

    epochs: int
    epoch_steps: int
    batch_labelled: int
    batch_unlabelled: int
    views: int

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.epoch_steps

    @property
    def images(self) -> int:
        """Images of the whole training, over all its steps."""
        return self.total * (self.batch_labelled + self.batch_unlabelled)


def count_steps(sets: Sets, options: DistillOptions, world: int) -> Steps:
    """The steps of a training on these sets by `world` processes.

    An epoch is one pass over U, or over L where U is empty or the recipe says so. The method does not matter: training
    on labels only takes as many steps as DHO on the same DATA. Raises DhoxError for batches that cannot be dealt out.
    """
    training, n_labelled, n_all_unlabelled = options.training, len(sets.labelled), len(sets.unlabelled)
    over_labelled = not n_all_unlabelled or (training.epoch_over == "labelled" and n_labelled > 0)
    n = n_labelled if over_labelled else n_all_unlabelled
    sizes = batch_sizes(training, n, over_labelled)
    batch = sizes.of_epoch(over_labelled)
    n_unlabelled = n_all_unlabelled if training.uses[1] else 0
    labelled = per_process("--batch-labelled", sizes.labelled, n_labelled, world)
    unlabelled = per_process("--batch-unlabelled", sizes.unlabelled, n_unlabelled, world)
    if (labelled + unlabelled) // world < 2:
        raise DhoxError("A step of one image per process cannot train BatchNorm.", "Use larger batches, or add images.")
    steps = steps_per_epoch(n, batch)
    epochs = training.epochs or EPOCHS
    if training.steps is not None:
        epochs = -(-training.steps // steps)
    total = epochs * steps
    passes = max(passes_over(n, total, batch) for n, batch in ((n_labelled, labelled), (n_unlabelled, unlabelled)) if n)
    views = options.teacher.views  # without a teacher a view costs nothing
    if training.uses[1]:
        views = passes if options.teacher.online_teacher else min(views, passes)
    return Steps(epochs, steps, labelled, unlabelled, views)


class BatchSizes(NamedTuple):
    """Images of a step."""

    labelled: int
    unlabelled: int

    def of_epoch(self, over_labelled: bool) -> int:
        """Those of the set that an epoch passes over."""
        return self.labelled if over_labelled else self.unlabelled


BATCH_SIZES = (BatchSizes(64, 192), BatchSizes(32, 96), BatchSizes(16, 48))


def batch_sizes(training: Training, n: int, over_labelled: bool) -> BatchSizes:
    """The user's batch sizes; else the largest by which n images make EPOCH_STEPS steps, or the smallest there is: more
    steps on the same images were worth 3 points where images are few (docs/recipes.md)."""
    largest = BATCH_SIZES[0]
    if training.batch_labelled is not None or training.batch_unlabelled is not None:
        return BatchSizes(training.batch_labelled or largest.labelled, training.batch_unlabelled or largest.unlabelled)
    fits = [sizes for sizes in BATCH_SIZES if n >= EPOCH_STEPS * sizes.of_epoch(over_labelled)]
    return fits[0] if fits else BATCH_SIZES[-1]


def steps_per_epoch(n: int, batch: int) -> int:
    """Steps of one pass over n images."""
    return -(-n // min(batch, n))


def passes_over(n: int, steps: int, batch: int) -> int:
    """How often a training sees each of n images at most."""
    return max(1, -(-steps * batch // n))

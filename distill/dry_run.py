"""What a training would cost (`--dry-run`): the sets and steps that it would have, and rates of a few batches here."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, check_output, free_bytes
from dhox.data.dataset import read_image, spread
from dhox.distill.compare_methods import check_comparison, check_test_images
from dhox.distill.images.draw_splits import draw_splits
from dhox.distill.images.listing import Listing, list_images
from dhox.distill.images.packed import packed_side
from dhox.distill.images.sets import choose_sets
from dhox.distill.options import DistillOptions, check, single, worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.results.room import check_room
from dhox.distill.resume import earlier_state
from dhox.distill.run import compiles, settings_of_training
from dhox.distill.small_options import CacheOptions
from dhox.distill.students.create import check_student, create_student
from dhox.distill.teachers.cache import FORWARD_BATCH
from dhox.distill.teachers.targets import WholeSets, teacher_rows
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.distill.training.steps import Steps, count_steps
from dhox.errors import DhoxError
from dhox.progress import working

SAMPLE = 32  # images that are decoded to see their sizes
TRIALS = 3


@dataclass(frozen=True)
class TeacherCost:
    """Forward passes of the teacher, images per second, and bytes of its cache."""

    passes: int
    images_per_s: float
    cache_bytes: int


@dataclass(frozen=True)
class PackingCost:
    """Packed images: their side in pixels (0: none), bytes, and seconds of packing."""

    side: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class TrainingCost:
    """`steps`: of each training; images per second of a step; seconds of all trainings together."""

    steps: list[Steps]
    images_per_s: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a command would cost on a device; None: it has no such part. Bytes are peak memory, and free disk."""

    device: str
    processes: int
    n_training: int
    n_whole: int
    decode_s: float
    teacher: TeacherCost | None
    packing: PackingCost | None
    training: TrainingCost | None
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Sample:
    """A few decoded images of a training set: sizes int [n, 2], seconds to decode one with the threads there are."""

    sizes: np.ndarray
    decode_s: float


def plan(data: Path, out: Path, options: DistillOptions) -> Plan:
    """What `dhox distill` would cost. Rates are measured on this machine and device, on random pixels.

    The sets are chosen without a look at the images' contents, so copies among them are counted. What a cache holds
    already is not subtracted. Nothing is written.
    """
    check(options)
    if options.training.compares:
        check_comparison(out, options)
    elif not options.output.resume or earlier_state(out, settings_of_training(data, options)) is None:
        check_output(out, RUN_FILE, RUN_SCHEMA, options.output.overwrite)
    check_student(options.student)
    fabric, _ = create_fabric(options.speed.device, options.speed.precision)
    compiles(options, fabric.device.type)
    listing = list_images(data, options.labels.classes, options.labels.group_by, labels=options.labels.labels)
    if options.training.compares:
        check_test_images(data, listing.splits, options)
    if options.teacher.from_files:
        teacher_rows(options.teacher, listing)
    sample = _decode_sample(listing, worker_count(options.speed.workers))
    training = options.training
    seeds = range(training.seeds or 1)
    jobs = [single(options, m, i) for m in training.methods for i in seeds] if training.compares else [options]
    steps = [_steps_of(listing, job, fabric.world_size, out) for job in jobs]
    root, teacher = options.speed.cache or out.parent, None
    with_teacher = [length for job, length in zip(jobs, steps, strict=True) if job.training.uses[1]]
    if with_teacher and not options.teacher.from_files:
        passes = [length.images for length in with_teacher] if options.teacher.online_teacher else None
        with working("Timing the teacher"):
            guide = load_teacher(options.teacher.teacher, fabric.device)
            teacher = _teacher_cost(guide, listing, fabric, max(length.views for length in with_teacher), passes)
    with working("Loading the student"):
        student = create_student(
            options.student, listing.labels, two_heads=True, prompts=listing.prompts, templates=[], device=fabric.device
        )
    side = options.speed.packed_size
    packing = _packed_cost(
        listing, packed_side(student.spec.image_size, sample.sizes) if side is None else side, sample
    )
    batch = max(length.batch_labelled + length.batch_unlabelled for length in steps) // fabric.world_size
    with working("Timing the student"):
        rate = _student_rate(fabric, student.model, student.spec.image_size, batch) * fabric.world_size
    images = sum(length.images for length in steps)
    seconds = images / rate + (0 if packing.side else images * sample.decode_s)
    return summed(listing, root, sample, fabric, teacher, packing, TrainingCost(steps, rate, seconds))


def plan_cache(data: Path, root: Path, options: CacheOptions) -> Plan:
    """What `dhox cache` would cost."""
    content = options.content
    fabric, _ = create_fabric(options.machine.device, None)
    listing = list_images(data)
    sample = _decode_sample(listing, worker_count(options.machine.workers))
    with working("Timing the teacher"):
        teacher = _teacher_cost(load_teacher(content.teacher, fabric.device), listing, fabric, content.views)
    packing = _packed_cost(listing, content.packed_size, sample) if content.packed_size else None
    return summed(listing, root, sample, fabric, teacher, packing, None)


def _steps_of(listing: Listing, options: DistillOptions, world: int, out: Path) -> Steps:
    """The steps of one training, if no image is a copy of another. Raises DhoxError where `out` has no room for it."""
    names = {item.name: item.name for items in listing.splits.values() for item in items}
    use_labels, tune_on = options.training.uses[0], options.choosing.tune_on
    splits = draw_splits(listing.splits, names, options.labels)
    sets = choose_sets(
        splits, listing.labels, names, options.labels, use_labels=use_labels,
        every_class=options.labels.need_every_class(options.training.uses[1]), tune_on=tune_on,
    )  # fmt: skip
    whole = WholeSets.of(sets, two_heads=options.training.method == "dho", given=options.choosing.fixed is not None)
    check_room(sets, whole, len(listing.classes), out)
    return count_steps(sets, options, world)


def summed(
    listing: Listing, root: Path, sample: Sample, fabric: Fabric, teacher: TeacherCost | None,
    packing: PackingCost | None, training: TrainingCost | None,
) -> Plan:  # fmt: skip
    """The parts together."""
    n_training, n_whole = len(listing.training), listing.n_rows - len(listing.training)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if fabric.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(fabric.device)
    return Plan(
        str(fabric.device), fabric.world_size, n_training, n_whole, sample.decode_s * (n_training + n_whole),
        teacher, packing, training, memory, free_bytes(root),
    )  # fmt: skip


def _decode_sample(listing: Listing, workers: int) -> Sample:
    """Decode a few training images. Raises DhoxError where there is none."""
    items = spread(listing.training, SAMPLE)
    if not items:
        raise DhoxError(f"{listing.data} holds no training image.", "Add images to train/CLASS/ or unlabelled/.")
    sizes = np.array([read_image(item).size for item in items])
    start = time.perf_counter()
    for item in items:
        read_image(item)
    return Sample(sizes, (time.perf_counter() - start) / len(items) / max(1, workers))


def _teacher_cost(
    guide: Teacher, listing: Listing, fabric: Fabric, views: int, online: list[int] | None = None
) -> TeacherCost:
    """A cache of so many views; or, `online`, a forward at every use: images of each training."""
    n_training, n_whole = len(listing.training), listing.n_rows - len(listing.training)
    cached = 0 if online is not None else n_training * views
    passes = n_whole + (sum(online) if online is not None else cached)
    batch = FORWARD_BATCH if guide.device.type == "cuda" else 16
    images = torch.randn(batch, 3, guide.size, guide.size, device=guide.device)
    rate = _best_rate(lambda: guide.encode_images(images), batch, guide.device)  # of its bare forward
    return TeacherCost(passes, rate * fabric.world_size, 2 * guide.width * (n_whole + cached))


def _packed_cost(listing: Listing, side: int, sample: Sample) -> PackingCost:
    """Packing every training image to `side` pixels."""
    n = len(listing.training)
    return PackingCost(side, n * side * side * 3, sample.decode_s * n if side else 0.0)


def _best_rate(work: Callable[[], object], images: int, device: torch.device) -> float:
    """Images per second of the fastest of a few trials, after one that warms up."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()
    return images / min(seconds() for _ in range(TRIALS))


def _student_rate(fabric: Fabric, model: torch.nn.Module, size: int, batch: int) -> float:
    model = fabric.to_device(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, size, size, device=fabric.device)

    def step() -> None:
        with fabric.autocast():
            ce_logits, kd_logits = model(images)
        (ce_logits.float().logsumexp(-1).mean() + kd_logits.float().logsumexp(-1).mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _best_rate(step, batch, fabric.device)

"""What a training would cost, measured on a few batches before anything starts (`--dry-run`)."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning_fabric import Fabric

from dhox.artefacts.files import free_bytes
from dhox.data.dataset import Splits, class_names, listed_labels, own_classes, read_dataset, read_image, spread
from dhox.distill.images.packed import packed_side
from dhox.distill.options import DistillOptions, worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.small_options import CacheOptions
from dhox.distill.students.create import create_student
from dhox.distill.teachers.cache import FORWARD_BATCH
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.errors import DhoxError
from dhox.options.declare import flat

SAMPLE = 32  # images that are decoded to see their sizes
TRIALS = 3


def plan(data: Path, out: Path, options: DistillOptions) -> dict[str, Any]:
    """What `dhox distill` would cost."""
    of = SimpleNamespace(**flat(options))
    teacherless = options.training.methods == ["ce"] or options.teacher.from_files
    return measured_plan(
        data, of.cache or out.parent, teacher=None if teacherless else of.teacher, student=of.student,
        student_weights=of.student_weights, class_file=of.classes, image_size=of.image_size, views=of.views,
        packed_size=of.packed_size, epochs=of.epochs, batch_labelled=of.batch_labelled,
        batch_unlabelled=of.batch_unlabelled, device=of.device, precision=of.precision,
        workers=worker_count(of.workers), trainings=len(options.training.methods) * (of.seeds or 1),
        epoch_over=of.epoch_over, online=of.online_teacher,
    )  # fmt: skip


def plan_cache(data: Path, root: Path, options: CacheOptions) -> dict[str, Any]:
    """What `dhox cache` would cost."""
    of = SimpleNamespace(**flat(options))
    return measured_plan(
        data, root, teacher=of.teacher, student=None, views=of.views, packed_size=of.packed_size, device=of.device,
        workers=worker_count(of.workers),
    )  # fmt: skip


def measured_plan(
    data: Path,
    root: Path,
    *,
    teacher: str | None,
    student: str | None,
    student_weights: str = "none",
    class_file: Path | None = None,
    image_size: int | None = None,
    views: int = 8,
    packed_size: int | None = None,
    epochs: int = 0,
    batch_labelled: int = 64,
    batch_unlabelled: int = 192,
    device: str = "auto",
    precision: str | None = None,
    workers: int = 0,
    trainings: int = 1,
    epoch_over: str = "unlabelled",
    online: bool = False,
) -> dict[str, Any]:
    """Images, bytes on disk, peak memory, teacher passes and seconds of each part, as plain values.

    `teacher` None: no teacher; `student` None: the cache alone. `trainings`: methods times seeds; they
    share caches, not epochs. Rates are measured on this machine and device, on random pixels; images
    that a cache holds already are not subtracted. Nothing is written.
    """
    fabric, precision = create_fabric(device, precision)
    splits = read_dataset(data, labels=listed_labels(class_file))
    if not all_training(splits):
        raise DhoxError(f"{data} holds no training image.", "Add images to train/CLASS/ or unlabelled/.")
    sample = [read_image(item) for item in spread(all_training(splits), SAMPLE)]
    start = time.perf_counter()
    for item in spread(all_training(splits), SAMPLE):
        read_image(item)
    decode_s = (time.perf_counter() - start) / len(sample)
    n_training, n_whole = len(all_training(splits)), len(splits["val"]) + len(splits["test"])
    world, threads = fabric.world_size, max(1, workers)
    found: dict[str, Any] = {
        "n_training": n_training, "n_validation_and_test": n_whole, "device": str(fabric.device), "processes": world,
        "precision": precision, "decode_s": decode_s * (n_training + n_whole) / threads,
        "free_bytes": free_bytes(root),
    }  # fmt: skip
    if teacher is not None:
        guide = load_teacher(teacher, fabric.device)
        rate = teacher_rate(guide) * world
        views = min(views, epochs) if epochs and epoch_over == "unlabelled" else views
        passes = n_training * (epochs * trainings if online else views) + n_whole
        found |= {
            "teacher_passes": passes,
            "teacher_images_per_s": rate,
            "teacher_s": passes / rate,
            "cache_bytes": 2 * guide.width * (n_whole + (0 if online else n_training * views)),
            "memory_bytes": peak_memory(fabric.device),
        }
    if student is not None:
        labels = [label for label, _ in class_names(splits, class_file, own_classes(data))]
        model, spec, _ = create_student(
            student,
            student_weights,
            image_size,
            labels,
            two_heads=True,
            prompts=labels,
            templates=[],
            device=fabric.device,
        )
        size = spec.image_size
        side = packed_side(size, [image.size for image in sample]) if packed_size is None else packed_size
        batch = batch_labelled + batch_unlabelled
        rate = student_rate(fabric, model, size, batch // world)
        per_epoch = batch_labelled if epoch_over == "labelled" else batch_unlabelled
        steps = trainings * epochs * -(-n_training // per_epoch)
        found |= packing(n_training, side, decode_s / threads) | {
            "student_images_per_s": rate * world,
            "training_s": steps * batch / (rate * world) + (0 if side else steps * batch * decode_s / threads),
            "memory_bytes": peak_memory(fabric.device),
        }
    elif packed_size:
        found |= packing(n_training, packed_size, decode_s / threads)
    return found


def packing(n: int, side: int, decode_s: float) -> dict[str, Any]:
    """Bytes and seconds of packing n images to `side` pixels, at `decode_s` seconds each."""
    return {"packed_size": side, "packed_bytes": n * side * side * 3, "pack_s": decode_s * n if side else 0.0}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU since the start, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def all_training(splits: Splits) -> list[Any]:
    """The images that L and U are drawn from."""
    return splits["train"] + splits["unlabelled"]


def best_rate(work: Callable[[], Any], images: int, device: torch.device) -> float:
    """Images per second of the fastest of a few trials, after one that warms up."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()
    return images / min(seconds() for _ in range(TRIALS))


def teacher_rate(guide: Teacher) -> float:
    """Images per second of the teacher's bare forward."""
    batch = FORWARD_BATCH if guide.device.type == "cuda" else 16
    images = torch.randn(batch, 3, guide.size, guide.size, device=guide.device)
    return best_rate(lambda: guide.encode_images(images), batch, guide.device)


def student_rate(fabric: Fabric, model: torch.nn.Module, size: int, batch: int) -> float:
    """Images per second of a training step."""
    model = fabric.to_device(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, size, size, device=fabric.device)

    def step() -> None:
        with fabric.autocast():
            ce_logits, kd_logits = model(images)
        (ce_logits.float().logsumexp(-1).mean() + kd_logits.float().logsumexp(-1).mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return best_rate(step, batch, fabric.device)

"""Training throughput: the reference scheme, dhox's epoch, and the bound of the device, in one run.

    python benchmarks/train_throughput.py            # chooses models that the device can take
    python benchmarks/train_throughput.py --student resnet18 --teacher ViT-L-14-336 --image-size 224

(a) reference: the teacher online in fp32 (TF32 on CUDA), every image decoded in every epoch, two separate forwards;
(b) dhox: embeddings from the cache, views of packed images on the device, one forward: `dhox.distill.training.train`;
(c) bound: the same loop on one resident batch, so nothing is fed.

Images are JPEGs of smooth noise, models have random weights: speed does not depend on either. (b) and (c) alternate,
and the ratio is the median of the pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import Item, read_image
from dhox.distill.images.packed import fill_packed, packed_side, prepare_packed
from dhox.distill.images.shards import open_rows, row_keys
from dhox.distill.images.student_inputs import Boxes, HostViews, PackedInputs, resident_images
from dhox.distill.options import Student as StudentOptions
from dhox.distill.options import Training
from dhox.distill.processes import create_fabric
from dhox.distill.students.create import create_student
from dhox.distill.students.student import Student
from dhox.distill.teachers.cache import TeacherViews, cache_recipe, embedding_batches, fill_cache, prepare_cache
from dhox.distill.teachers.teacher import Teacher
from dhox.distill.teachers.view_targets import cached_targets, cosine_logits
from dhox.distill.training.batch_sampler import BatchSampler
from dhox.distill.training.prefetch import Batch, Batches
from dhox.distill.training.steps import Steps
from dhox.distill.training.train import Job, train

CLASSES, VIEWS, PAIRS = 100, 8, 5


def write_jpegs(folder: Path, n: int, width: int, height: int) -> list[Item]:
    """n JPEG files of smooth noise, about as large as photographs of that size."""
    random = np.random.default_rng(0)
    items = []
    for i in range(n):
        small = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg", quality=90)
        items.append(Item(f"{folder}/{i}.jpg", f"{i}.jpg"))
    return items


def random_teacher(architecture: str, device: torch.device) -> Teacher:
    """An OpenCLIP model with random weights."""
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=None, device=device)
    model.requires_grad_(False).eval()
    config = open_clip.get_model_preprocess_cfg(model)
    tokenizer = open_clip.get_tokenizer(architecture)
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    with torch.inference_mode():
        width = model.encode_text(tokenizer(["a"]).to(device)).shape[-1]
    return Teacher(
        architecture, model, tokenizer, transform, scale=100.0, size=size, interpolation="bicubic", width=width,
        mean=tuple(config["mean"]), std=tuple(config["std"]), device=device, logit_bias=None,
    )  # fmt: skip


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class ReferenceViews(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One random-resized crop per use, at the teacher's size, and the student's resized from it."""

    def __init__(self, items: list[Item], teacher: Teacher, size: int) -> None:
        self.items = items
        self.crop = v2.Compose([
            v2.RandomResizedCrop(teacher.size, (0.5, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip
        self.resize = v2.Resize(size, antialias=True)
        self.normalise = v2.Normalize(teacher.mean, teacher.std)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        crop = self.crop(read_image(self.items[index]))
        return self.normalise(crop), self.normalise(self.resize(crop))


def reference_rate(
    items: list[Item], teacher: Teacher, student: Student, size: int, text: torch.Tensor, n_labelled: int,
    n_unlabelled: int, steps: int, workers: int,
) -> float:  # fmt: skip
    """(a): images per second."""
    device = teacher.device
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batch = n_labelled + n_unlabelled
    loader = DataLoader(ReferenceViews(items, teacher, size), batch_size=batch, num_workers=workers, drop_last=True)
    labels = torch.arange(n_labelled, device=device) % CLASSES
    student.train()
    done, start = -1, 0.0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    while done < steps:
        for for_teacher, for_student in loader:
            for_teacher, for_student = for_teacher.to(device), for_student.to(device)
            with torch.no_grad():
                z = F.normalize(teacher.model.encode_image(for_teacher).float(), dim=-1)
                targets = 100.0 * z @ text.T
            ce_l, kd_l = student(for_student[:n_labelled])
            _, kd_u = student(for_student[n_labelled:])
            loss = F.cross_entropy(ce_l, labels)
            for kd, target in ((kd_l, targets[:n_labelled]), (kd_u, targets[n_labelled:])):
                loss = loss + 4 * F.kl_div(F.log_softmax(kd / 2, -1), F.softmax(target / 2, -1), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == 0:  # the first step warms up
                synchronise(device)
                start = time.perf_counter()
            if done == steps:
                break
    synchronise(device)
    return steps * batch / (time.perf_counter() - start)


class ResidentBatches(Batches):
    """One batch again and again: nothing is fed."""

    def of(self, steps: range) -> Iterator[Batch]:
        """See Batches."""
        batch = self.make(0)
        return (batch for _ in steps)


class ResidentInputs:
    """The images of one batch, on the device already."""

    side = 0

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def on_host(self, numbers: np.ndarray, views: np.ndarray, pin: bool) -> HostViews:
        """See StudentInputs."""
        return HostViews(None, None)

    def on_device(self, numbers: torch.Tensor, views: HostViews) -> torch.Tensor:
        """See StudentInputs."""
        return self.images


def loop_rate(fabric: Fabric, student: Student, batches: Batches, steps: int, compiled: bool, run: Path) -> float:
    """Images per second of dhox's training loop, the first epoch left out; its checkpoints are part of it."""
    ends: list[float] = []

    def record(epoch: int, metrics: dict[str, float]) -> None:
        ends.append(time.perf_counter())

    run.mkdir()
    sampler = batches.sampler
    length = Steps(2, steps, sampler.batch_labelled, sampler.batch_unlabelled, VIEWS)
    job = Job(batches, [], length, Training(epochs=2), None, compiled, "benchmark")
    train(fabric, student, job, run, dict, record)
    return steps * (sampler.batch_labelled + sampler.batch_unlabelled) / (ends[1] - ends[0])


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--teacher", default="ViT-L-14-336" if cuda else "ViT-B-32")
    parser.add_argument("--image-size", type=int, default=224 if cuda else 96)
    parser.add_argument("--images", type=int, default=4096 if cuda else 96)
    parser.add_argument("--steps", type=int, default=60 if cuda else 12)
    parser.add_argument("--batch-labelled", type=int, default=128 if cuda else 8)
    parser.add_argument("--batch-unlabelled", type=int, default=384 if cuda else 24)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()

    fabric, precision = create_fabric("auto", None)
    compiled = cuda and not options.no_compile
    workers = max(0, min(16, (os.cpu_count() or 1) - 2))
    device_name = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()} CPU"
    print(f"{device_name}, {os.cpu_count()} cores, torch {torch.__version__}, {precision}, compiled: {compiled}")
    print(f"student {options.student} at {options.image_size} px, teacher {options.teacher}, {VIEWS} views")

    def new_student() -> tuple[Student, Preprocessing]:
        labels = [str(i) for i in range(CLASSES)]
        model, _, preprocessing = create_student(
            StudentOptions(student=options.student, student_weights="none", image_size=options.image_size), labels,
            two_heads=True, prompts=labels, templates=[], device=fabric.device,
        )  # fmt: skip
        return fabric.to_device(model), preprocessing

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        items = write_jpegs(folder / "images", options.images, 500, 375)
        keys = row_keys((item.name for item in items), [""] * len(items))
        sizes = np.tile([500, 375], (len(items), 1))
        teacher = random_teacher(options.teacher, fabric.device)
        text = F.normalize(torch.randn(CLASSES, teacher.width, device=fabric.device), dim=-1)
        student, preprocessing = new_student()
        n = len(items)

        # Packing and caching, once; the teacher's bare forward beside the caching pass.
        side = packed_side(options.image_size, sizes)
        prepare_packed(folder / "packed", side)
        start = time.perf_counter()
        fill_packed(folder / "packed", items, keys, side, fabric)
        pack_s = time.perf_counter() - start
        recipe = cache_recipe(teacher, "random", VIEWS, 0)
        prepare_cache(folder / "cache", recipe, teacher)
        some = TeacherViews(items[:32], sizes[:32], VIEWS, 0, teacher.size, teacher.interpolation)
        for _ in embedding_batches(teacher, some, VIEWS, 0):
            pass  # warms up
        start = time.perf_counter()
        fill_cache(folder / "cache", teacher, items, keys, sizes, recipe, workers, fabric)
        cache_s = time.perf_counter() - start
        crops = torch.randn(256 if cuda else 64, 3, teacher.size, teacher.size, device=fabric.device)
        bare = []
        for _ in range(4):
            start = time.perf_counter()
            teacher.encode_images(crops)
            synchronise(fabric.device)
            bare.append(len(crops) / (time.perf_counter() - start))
        cached = n * VIEWS / cache_s

        # (a)
        a = reference_rate(
            items, teacher, student, options.image_size, text, options.batch_labelled, options.batch_unlabelled,
            max(4, options.steps // 4), workers,
        )  # fmt: skip

        # (b) and (c), alternating.
        n_labelled = n // 4
        labels = np.arange(n_labelled) % CLASSES
        sampler = BatchSampler(labels, n - n_labelled, options.batch_labelled, options.batch_unlabelled, VIEWS, 0)
        boxes = Boxes(items, sizes, 0)
        rows = open_rows(folder / "packed", keys)
        targets = cached_targets(open_rows(folder / "cache", keys), cosine_logits(text, 100.0))
        stores = {"host memory": None}
        resident = resident_images(rows, fabric)
        if resident is not None:
            stores["the device"] = resident
        threads = max(1, min(6, workers))
        rates: dict[str, list[float]] = {name: [] for name in [*stores, "bound"]}
        for pair in range(PAIRS):
            for store, images in stores.items():
                student, _ = new_student()
                inputs = PackedInputs(rows, images, boxes, preprocessing, fabric, compiled=compiled)
                fed = Batches(sampler, inputs, targets, threads, cuda)
                run = folder / f"{pair}-{store}"
                rates[store].append(loop_rate(fabric, student, fed, options.steps, compiled, run))
            student, _ = new_student()
            one = next(fed.of(range(1)))
            same = ResidentInputs(inputs.on_device(one.numbers, one.views))
            nothing_fed = ResidentBatches(sampler, same, targets, threads, cuda)
            run = folder / f"{pair}-bound"
            rates["bound"].append(loop_rate(fabric, student, nothing_fed, options.steps, compiled, run))

    bound = statistics.median(rates["bound"])
    forward = statistics.median(bare)
    print(f"teacher, bare forward: {forward:,.0f} images/s; caching pass: {cached:,.0f} ({cached / forward:.2f})")
    print(f"packing to {side} px: {n / pack_s:,.0f} images/s; packed {side * side * 3 / 1e3:.0f} kB per image")
    print(f"(a) reference scheme: {a:,.0f} images/s")
    for store in stores:
        b = statistics.median(rates[store])
        share = statistics.median(x / y for x, y in zip(rates[store], rates["bound"], strict=True))
        print(f"(b) dhox, packed images in {store}: {b:,.0f} images/s; (b)/(c) {share:.2f}; (b)/(a) {b / a:.1f}")
        for epochs in (20, 50, 200):
            all_in = n * epochs / (n * epochs / b + cache_s + pack_s)
            print(f"    caching and packing spread over {epochs} epochs: {all_in:,.0f} images/s; /(a) {all_in / a:.1f}")
    print(f"(c) bound, one resident batch: {bound:,.0f} images/s")


if __name__ == "__main__":
    main()

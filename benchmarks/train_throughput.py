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
from dataclasses import dataclass
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

CLASSES, VIEWS = 100, 8
WIDTH, HEIGHT = 500, 375  # of the images, in pixels


@dataclass(frozen=True)
class Sizes:
    """What is trained on how much: `images` in all, `steps` per epoch, `pairs` of (b) and (c)."""

    student: str
    teacher: str
    image_size: int
    images: int
    steps: int
    batch_labelled: int
    batch_unlabelled: int
    pairs: int
    compiled: bool

    @property
    def batch(self) -> int:
        """Images per step."""
        return self.batch_labelled + self.batch_unlabelled


@dataclass
class Throughput:
    """Images per second of everything; `rates`: an entry per pair, by where the packed images lie, and `bound`.

    `peak_bytes`: the largest memory of the device that tensors took in a training, 0 on a CPU.
    """

    reference: float
    teacher_forward: float
    caching: float
    packing: float
    side: int
    rates: dict[str, list[float]]
    peak_bytes: int

    def shares(self, store: str) -> list[float]:
        """(b)/(c) of every pair."""
        return [b / c for b, c in zip(self.rates[store], self.rates["bound"], strict=True)]


def write_jpegs(folder: Path, n: int) -> list[Item]:
    """n JPEG files of smooth noise, about as large as photographs of that size."""
    random = np.random.default_rng(0)
    items = []
    for i in range(n):
        small = random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
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
    items: list[Item], teacher: Teacher, student: Student, text: torch.Tensor, sizes: Sizes, workers: int
) -> float:
    """(a): images per second."""
    device, n_labelled, batch, steps = teacher.device, sizes.batch_labelled, sizes.batch, max(4, sizes.steps // 4)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    views = ReferenceViews(items, teacher, sizes.image_size)
    loader = DataLoader(views, batch_size=batch, num_workers=workers, drop_last=True)
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
    job = Job(
        batches, names=[], steps=length, options=Training(epochs=2), peak=1e-3, top_k=None, teacher_temperature=1.0,
        compiled=compiled, identity="benchmark",
    )  # fmt: skip
    train(fabric, student, job, run, dict, record)
    return steps * (sampler.batch_labelled + sampler.batch_unlabelled) / (ends[1] - ends[0])


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run share."""

    sizes: Sizes
    fabric: Fabric
    folder: Path
    items: list[Item]
    teacher: Teacher
    text: torch.Tensor
    workers: int

    @property
    def keys(self) -> np.ndarray:
        """Row keys of the images."""
        return row_keys((item.name for item in self.items), [""] * len(self.items))

    @property
    def pixels(self) -> np.ndarray:
        """Width and height of every image, int [N, 2]."""
        return np.tile([WIDTH, HEIGHT], (len(self.items), 1))

    def new_student(self) -> tuple[Student, Preprocessing]:
        """A student with random weights, on the device."""
        labels, sizes = [str(i) for i in range(CLASSES)], self.sizes
        model, _, preprocessing = create_student(
            StudentOptions(student=sizes.student, student_weights="none", image_size=sizes.image_size), labels,
            two_heads=True, prompts=labels, templates=[], device=self.fabric.device,
        )  # fmt: skip
        return self.fabric.to_device(model), preprocessing


def packing_rate(bench: Bench, side: int) -> float:
    """Images per second."""
    prepare_packed(bench.folder / "packed", side)
    start = time.perf_counter()
    fill_packed(bench.folder / "packed", bench.items, bench.keys, side, bench.fabric)
    return len(bench.items) / (time.perf_counter() - start)


def caching_rates(bench: Bench) -> tuple[float, float]:
    """Images per second of the teacher's bare forward, and of the pass that fills the cache."""
    teacher, items, pixels, device = bench.teacher, bench.items, bench.pixels, bench.fabric.device
    recipe = cache_recipe(teacher, "random", VIEWS, 0)
    prepare_cache(bench.folder / "cache", recipe, teacher)
    some = TeacherViews(items[:32], pixels[:32], VIEWS, 0, teacher.size, teacher.interpolation)
    for _ in embedding_batches(teacher, some, VIEWS, 0):
        pass  # warms up
    start = time.perf_counter()
    fill_cache(bench.folder / "cache", teacher, items, bench.keys, pixels, recipe, bench.workers, bench.fabric)
    cached = len(items) * VIEWS / (time.perf_counter() - start)
    crops = torch.randn(256 if device.type == "cuda" else 64, 3, teacher.size, teacher.size, device=device)
    bare = []
    for _ in range(4):
        start = time.perf_counter()
        teacher.encode_images(crops)
        synchronise(device)
        bare.append(len(crops) / (time.perf_counter() - start))
    return statistics.median(bare), cached


def pair_rates(bench: Bench) -> dict[str, list[float]]:
    """(b) from every store and (c), alternating."""
    sizes, fabric, n = bench.sizes, bench.fabric, len(bench.items)
    cuda = fabric.device.type == "cuda"
    labels = np.arange(n // 4) % CLASSES
    sampler = BatchSampler(labels, n - len(labels), sizes.batch_labelled, sizes.batch_unlabelled, VIEWS, 0)
    boxes, rows = Boxes(bench.items, bench.pixels, 0), open_rows(bench.folder / "packed", bench.keys)
    targets = cached_targets(open_rows(bench.folder / "cache", bench.keys), cosine_logits(bench.text, 100.0))
    stores: dict[str, torch.Tensor | None] = {"host memory": None}
    resident = resident_images(rows, fabric)
    if resident is not None:
        stores["the device"] = resident
    threads = max(1, min(6, bench.workers))
    rates: dict[str, list[float]] = {name: [] for name in [*stores, "bound"]}
    for pair in range(sizes.pairs):
        for store, images in stores.items():
            student, preprocessing = bench.new_student()
            inputs = PackedInputs(rows, images, boxes, preprocessing, fabric, compiled=sizes.compiled)
            fed = Batches(sampler, inputs, targets, threads, cuda)
            rates[store].append(
                loop_rate(fabric, student, fed, sizes.steps, sizes.compiled, bench.folder / f"{pair}-{store}")
            )
        student, _ = bench.new_student()
        one = next(fed.of(range(1)))
        same = ResidentInputs(inputs.on_device(one.numbers, one.views))
        nothing_fed = ResidentBatches(sampler, same, targets, threads, cuda)  # type: ignore[arg-type]
        rates["bound"].append(
            loop_rate(fabric, student, nothing_fed, sizes.steps, sizes.compiled, bench.folder / f"{pair}-bound")
        )
    return rates


def throughput(sizes: Sizes, fabric: Fabric) -> Throughput:
    """Everything, in one process."""
    workers = max(0, min(16, (os.cpu_count() or 1) - 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        items = write_jpegs(folder / "images", sizes.images)
        teacher = random_teacher(sizes.teacher, fabric.device)
        text = F.normalize(torch.randn(CLASSES, teacher.width, device=fabric.device), dim=-1)
        bench = Bench(sizes, fabric, folder, items, teacher, text, workers)
        side = packed_side(sizes.image_size, bench.pixels)
        packing = packing_rate(bench, side)
        forward, caching = caching_rates(bench)
        reference = reference_rate(items, teacher, bench.new_student()[0], text, sizes, workers)
        teacher.model.cpu()
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rates = pair_rates(bench)
        peak = torch.cuda.max_memory_allocated() if fabric.device.type == "cuda" else 0
    return Throughput(reference, forward, caching, packing, side, rates, peak)


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
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    asked = vars(parser.parse_args())

    fabric, precision = create_fabric("auto", None)
    compiled = not asked.pop("no_compile") and cuda
    sizes = Sizes(compiled=compiled, **asked)
    device_name = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()} CPU"
    print(f"{device_name}, {os.cpu_count()} cores, torch {torch.__version__}, {precision}, compiled: {sizes.compiled}")
    print(f"student {sizes.student} at {sizes.image_size} px, teacher {sizes.teacher}, {VIEWS} views")
    report(throughput(sizes, fabric), sizes.images)


def report(found: Throughput, n: int) -> None:
    """For people."""
    forward, a = found.teacher_forward, found.reference
    print(
        f"teacher, bare forward: {forward:,.0f} images/s; caching: {found.caching:,.0f} ({found.caching / forward:.2f})"
    )
    print(f"packing to {found.side} px: {found.packing:,.0f} images/s; {found.side**2 * 3 / 1e3:.0f} kB per image")
    print(f"(a) reference scheme: {a:,.0f} images/s")
    for store in found.rates:
        b, share = statistics.median(found.rates[store]), statistics.median(found.shares(store))
        if store == "bound":
            print(f"(c) bound, one resident batch: {b:,.0f} images/s")
            continue
        print(f"(b) dhox, packed images in {store}: {b:,.0f} images/s; (b)/(c) {share:.2f}; (b)/(a) {b / a:.1f}")
        for epochs in (20, 50, 200):
            once = n * VIEWS / found.caching + n / found.packing
            all_in = n * epochs / (n * epochs / b + once)
            print(f"    caching and packing spread over {epochs} epochs: {all_in:,.0f} images/s; /(a) {all_in / a:.1f}")
    if found.peak_bytes:
        print(f"peak memory of training: {found.peak_bytes / 1e9:.1f} GB")


if __name__ == "__main__":
    main()

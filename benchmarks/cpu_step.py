"""Where a training step of a small student goes on this CPU, and what other layouts and precisions would change.

    python benchmarks/cpu_step.py
    python benchmarks/cpu_step.py --students resnet18 mobilenetv4_conv_small --image-size 64 --threads 2

A step is that of `dhox distill`: views of packed images, one forward of labelled and unlabelled images, the loss, the
backward pass, AdamW. Shares are medians over the steps, and the first is left out. The variants' steps alternate with
those of dhox (channels-last, fp32), and a ratio is the median of the pairs: above 1 is faster than dhox.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from train_throughput import CLASSES, VIEWS, Bench, Sizes, packing_rate, write_jpegs

from dhox.distill.images.packed import packed_side
from dhox.distill.images.shards import open_rows
from dhox.distill.images.student_inputs import Boxes, PackedInputs
from dhox.distill.processes import create_fabric
from dhox.distill.training.batch_sampler import BatchSampler
from dhox.distill.training.loss import CE_WEIGHT, training_loss
from dhox.system.environment import now
from dhox.system.machine import cpu_model

STUDENTS = ["resnet10t", "resnet18", "mobilenetv4_conv_small", "vit_tiny_patch16_224"]
LABELLED, UNLABELLED = 16, 48
PARTS = ("views", "forward", "loss", "backward", "AdamW")


@dataclass
class Step:
    """One student and its optimiser; `seconds` of each part of each step."""

    student: torch.nn.Module
    layout: torch.memory_format
    precision: torch.dtype
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def __post_init__(self) -> None:
        self.student.to(memory_format=self.layout).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4, fused=True)

    def run(self, views: Callable[[], torch.Tensor], teacher_logits: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of a whole step."""
        times = [time.perf_counter()]

        def passed() -> None:
            times.append(time.perf_counter())

        images = views().contiguous(memory_format=self.layout)
        passed()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == torch.bfloat16):
            ce_logits, kd_logits = (logits.float() for logits in self.student(images))
        passed()
        ce, kd = training_loss(ce_logits, kd_logits, teacher_logits, labels, use_ce=True, use_kd=True, top_k=None)
        loss = CE_WEIGHT * ce + (1 - CE_WEIGHT) * kd
        passed()
        loss.backward()
        passed()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        passed()
        for part, start, end in zip(PARTS, times, times[1:], strict=False):
            self.seconds[part].append(end - start)
        return times[-1] - times[0]


def measure(name: str, image_size: int, steps: int, folder: Path) -> str:
    """A row of the table: shares of the parts, and the ratios of the variants."""
    sizes = Sizes(name, "", image_size, 64, steps, LABELLED, UNLABELLED, 1, False)
    (folder / "images").mkdir(parents=True)
    fabric, _ = create_fabric("cpu", "32-true")
    bench = Bench(sizes, fabric, folder, write_jpegs(folder / "images", 64), None, None, 0)  # type: ignore[arg-type]
    packing_rate(bench, packed_side(image_size, bench.pixels))
    student, preprocessing = bench.new_student()
    inputs = PackedInputs(
        open_rows(folder / "packed", bench.keys), None, Boxes(bench.items, bench.pixels, 0), preprocessing, fabric,
        compiled=False,
    )  # fmt: skip
    labels = np.arange(LABELLED) % CLASSES
    sampler = BatchSampler(labels, len(bench.items) - LABELLED, LABELLED, UNLABELLED, VIEWS, 0)
    numbers, views = sampler.batch(0)

    def make() -> torch.Tensor:
        return inputs.on_device(torch.from_numpy(numbers), inputs.on_host(numbers, views, False))

    teacher, truth = torch.randn(LABELLED + UNLABELLED, CLASSES), torch.from_numpy(labels)
    dhox = Step(student, torch.channels_last, torch.float32)
    others = {
        "contiguous": Step(bench.new_student()[0], torch.contiguous_format, torch.float32),
        "bf16": Step(bench.new_student()[0], torch.channels_last, torch.bfloat16),
    }
    ratios: dict[str, list[float]] = {other: [] for other in others}
    for step in range(steps + 1):
        own = dhox.run(make, teacher, truth)
        for other, one in others.items():
            taken = one.run(make, teacher, truth)
            if step:
                ratios[other].append(own / taken)
    medians = {part: statistics.median(dhox.seconds[part][1:]) for part in PARTS}
    whole = sum(medians.values())
    shares = " | ".join(f"{100 * value / whole:.0f} %" for value in medians.values())
    rate = (LABELLED + UNLABELLED) / whole
    return (
        f"| {name} | {rate:.0f} | {shares} | "
        + " | ".join(f"{statistics.median(r):.2f}" for r in ratios.values())
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--students", nargs="+", default=["resnet10t", "resnet18", "mobilenetv4_conv_small", "vit_tiny_patch16_224"]
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = f"{options.image_size} px, {LABELLED} + {UNLABELLED} images"
    print(f"{now()[:10]}, {cpu_model()}, {torch.get_num_threads()} threads; {sizes}")
    print(f"\n| student | images/s | {' | '.join(PARTS)} | contiguous | bf16 |\n|{' --- |' * (4 + len(PARTS))}")
    for name in options.students:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, options.image_size, options.steps, Path(folder)), flush=True)


if __name__ == "__main__":
    main()

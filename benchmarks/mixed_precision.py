"""What bf16 does to the heads, and what fp32 heads cost: evaluation and gradients in three ways, and time of a step.

    python benchmarks/mixed_precision.py                    # the demo's data, made in a temporary folder
    python benchmarks/mixed_precision.py --noise 1

A CLIP student with cosine heads (the demo teacher's own tower, heads from its texts) is trained for one epoch with
`--precision bf16-mixed` on the CPU. The same weights then answer the validation images with everything in bf16
autocast, with the backbone alone in it, and in fp32, which is what export ships. Gradients: of the distillation loss
in the KD head, against fp32, with the teacher's logits as near to the student's as `--noise` says. Time: what heads and
losses take of a step of ResNet-18 with 1,000 classes. (bf16 itself is slow on CPUs that only emulate it.)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

import dhox
from dhox.artefacts.run_directory import open_run
from dhox.data.dataset import class_numbers, read_dataset
from dhox.demo.data import write_image_folder
from dhox.distill.images.pixels import to_model
from dhox.distill.results.evaluate import pixel_loader
from dhox.distill.results.selection import choose_alpha_beta
from dhox.distill.students.student import Student, create_backbone, load_student, with_heads
from dhox.distill.training.loss import distillation_loss, training_loss
from dhox.evidence.dho_inference import dho_probs

WAYS = ("all in bf16", "backbone in bf16", "fp32")


def autocast(on: bool) -> torch.autocast | nullcontext[None]:
    """bf16 on the CPU, or nothing."""
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def head_logits(student: Student, z: torch.Tensor, half: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both heads' logits of features: by `Student.logits`, in fp32, or as its layers are under autocast (`half`)."""
    if not half:
        return student.logits(z)
    assert student.kd_head is not None
    with autocast(True):
        return student.ce_head(z), student.kd_head(z)


def answers(student: Student, batches: list[torch.Tensor], way: str) -> list[np.ndarray]:
    """CE and KD logits [N, C] of images, in one of WAYS."""
    found = []
    with torch.inference_mode():
        for images in batches:
            with autocast(way != "fp32"):
                z = student.backbone(images)
            found.append(head_logits(student, z, half=way == "all in bf16"))
    return [torch.cat(parts).float().numpy() for parts in zip(*found, strict=True)]


def evaluation(student: Student, batches: list[torch.Tensor], labels: np.ndarray) -> None:
    """One row per way: how far from fp32, ties, flipped labels, accuracy, and the alpha and beta that it chooses."""
    found = {way: answers(student, batches, way) for way in WAYS}
    truth = found["fp32"]
    print(f"\n{'evaluation':18} KD logits off by | top-1 ties | labels flipped | accuracy | alpha, beta")
    for way, (ce, kd) in found.items():
        top = np.sort(kd, axis=1)[:, -2:]
        point = choose_alpha_beta(ce, kd, labels)
        same = dho_probs(ce, kd, 0.4, 0.5).argmax(-1)
        flips = (kd.argmax(-1) != truth[1].argmax(-1)).mean()
        print(
            f"{way:18} {np.abs(kd - truth[1]).max():16.3f} | {100 * (top[:, 0] == top[:, 1]).mean():8.1f} % | "
            f"{100 * flips:12.1f} % | {100 * (same == labels).mean():6.1f} % | {point.alpha:g}, {point.beta:g}"
        )


def gradients(student: Student, images: torch.Tensor, noise: float) -> None:
    """The KD gradient in the head's weights with rounded and with fp32 heads, both from one set of features."""
    assert student.kd_head is not None
    weight = student.kd_head.weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad(), autocast(True):
        z = student.backbone(images)
    with torch.no_grad():
        exact = student.logits(z)[1]
        teacher = exact + noise * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
    found, values = [], []
    for half in (True, False):
        logits = head_logits(student, z, half)[1].float()
        (gradient,) = torch.autograd.grad(distillation_loss(logits, teacher), [weight])
        found.append(gradient)
        values.append(np.mean([len(row.unique()) for row in logits]))
    off = float((found[0] - found[1]).norm() / found[1].norm())
    classes = len(weight)  # type: ignore[arg-type]
    print(
        f"\nKD gradient with bf16 heads: off by {100 * off:.0f} % of its norm (teacher {noise:g} from the student); "
        f"{values[0]:.0f} distinct logits among {classes} classes, {values[1]:.0f} with fp32 heads"
    )


def head_share(batch: int, steps: int) -> None:
    """What fp32 heads and losses take of a training step of ResNet-18 with 1,000 classes, all of it in fp32."""
    student = with_heads(create_backbone("resnet18", "none", None)[0], 224, 1000, two_heads=True).train()
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch // 4,))
    teacher, optimizer = torch.randn(batch, 1000), torch.optim.AdamW(student.parameters(), fused=True)

    def heads(z: torch.Tensor) -> None:
        ce, kd = training_loss(*student.logits(z), teacher, labels, use_ce=True, use_kd=True)
        (ce + kd).backward()

    def seconds(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        optimizer.step()
        taken = time.perf_counter() - start
        optimizer.zero_grad(set_to_none=False)
        return taken

    z = student.backbone(images).detach().requires_grad_()
    ways = (lambda: heads(student.backbone(images))), (lambda: heads(z)), (lambda: None)
    for way in ways:
        seconds(way)
    whole, of_heads, nothing = np.median([[seconds(way) for way in ways] for _ in range(steps)], axis=0)
    print(
        f"\nstep, ResNet-18, {batch} images, 1,000 classes, fp32: {1e3 * whole:.0f} ms, of which heads and losses "
        f"{1e3 * (of_heads - nothing):.1f} ms ({100 * (of_heads - nothing) / whole:.2f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--noise", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_image_folder(data)
        teacher = f"local-dir:{data / 'teacher'}"
        run = dhox.distill(
            data, Path(folder) / "run", teacher=teacher, student=f"open_clip:{teacher}", init_heads="text",
            kd_head="cosine-code", precision="bf16-mixed", device="cpu", epochs=1, shots=16, views=1,
        )  # fmt: skip
        source = open_run(run.run)
        student, look = load_student(run.run, source.run.student), source.run.preprocessing
        items = read_dataset(data, labels=source.run.labels)["val"]
        fabric = Fabric(accelerator="cpu", devices=1)
        batches = [to_model(pixels, look.mean, look.std) for pixels in pixel_loader(items, look, 0, fabric)]
        evaluation(student, batches, class_numbers(items, source.run.labels))
        stored = np.abs(source.validation.kd_logits - answers(student, batches, "fp32")[1]).max()
        print(f"stored by the training: {stored:.1g} from fp32 of the saved weights")
        gradients(student, batches[0], options.noise)
    head_share(options.batch, options.steps)


if __name__ == "__main__":
    main()

"""Size and latency of the stages before ONNX, for the demo's table: the same clock and scope as `dhox bench`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from dhox.artefacts.bench_latency import Key
from dhox.artefacts.files import EXPORT_FILE
from dhox.artefacts.manifest import Fold, Manifest
from dhox.artefacts.record import read_record
from dhox.artefacts.run import read_run
from dhox.bench.latency_statistics import latency_statistics
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, Timed, measure
from dhox.bench.runners.torch_reference import deployable
from dhox.distill.images.pixels import to_model
from dhox.distill.teachers.teacher import Teacher, load_teacher
from dhox.reports.pages.run import Cost

SECONDS = 1.0


class ZeroShot(nn.Module):
    """The teacher's image tower as a classifier: uint8 [B, H, W, 3] to probs [B, C]."""

    def __init__(self, teacher: Teacher, text_embeddings: torch.Tensor) -> None:
        super().__init__()
        self.visual: nn.Module = teacher.model.visual
        self.scale, self.text = teacher.scale, text_embeddings
        self.mean, self.std = teacher.mean, teacher.std

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probs of images."""
        z = nn.functional.normalize(self.visual(to_model(image, self.mean, self.std)), dim=-1)
        return (self.scale * z @ self.text.T).softmax(-1)


def stage_costs(run: Path, labels_only: Path) -> dict[str, Cost]:
    """stage -> fp32 weights, and p50 at batch 1 in torch, for every stage that is no ONNX file."""
    summary = read_run(run)
    assert summary.teacher is not None
    fold = read_record(run / "export" / EXPORT_FILE, Manifest).fold
    teacher = load_teacher(summary.teacher.name, torch.device("cpu"))
    text = teacher.encode_classes([entry.prompt for entry in summary.classes], summary.teacher.templates)
    single = Fold("single", 1.0, 1.0)
    modules = {
        "teacher": ZeroShot(teacher, text),
        "labels_only": deployable(labels_only, single),
        "ce_head": deployable(run, single),
        "dho": deployable(run, msgspec.structs.replace(fold, rule="heads")),
        "folded_torch": deployable(run, fold),
    }
    sizes = dict.fromkeys(modules, summary.student.image_size) | {"teacher": teacher.size}
    costs = {stage: cost(stage, module, sizes[stage]) for stage, module in modules.items()}
    return costs | {"kd_head": costs["ce_head"], "dho_fixed": costs["dho"]}


def cost(stage: str, module: nn.Module, size: int) -> Cost:
    """fp32 bytes of the parameters, and the median latency of one image."""
    image, eager = torch.zeros((1, size, size, 3), dtype=torch.uint8), module.eval()

    def call() -> object:
        with torch.inference_mode():
            return eager(image).numpy()

    key, samples = Key(stage, "torch", 1, "e2e"), dict[Key, Timed]()
    measure([Cell(key, call)], SECONDS, FEWEST_ROUNDS, np.random.default_rng(0), samples, f"torch, {stage}")
    taken = samples[key]
    median = latency_statistics(taken.rounds, 1, np.array(taken.started_s)).latency_ms.p50
    return Cost(4 * sum(parameter.numel() for parameter in module.parameters()), median)

"""Holding written graphs against torch on real images, and the accuracy ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dhox.console import progress_bar
from dhox.dataset import Item, check_labels, class_numbers, data_exists, read_dataset, read_image, spread
from dhox.errors import DhoxError, GateFailedError
from dhox.export.fold import gate_images
from dhox.exported import graph_input, run_session
from dhox.golden import TOLERANCE
from dhox.images import Preprocessing, model_input
from dhox.onnx_session import open_session
from dhox.stats import accuracy_row

MOST_CHECK_IMAGES = 2000
GOLDEN_IMAGES = 32
BATCH = 64

# (kind, all of it): what the check images are, in words
IMAGES = {
    ("validation", False): "the gating half of validation",
    ("validation", True): "all of validation, which also chose alpha and beta",
    ("labelled", True): "labelled training images, for want of validation",
}


@dataclass(frozen=True)
class CheckImages:
    """Real images to hold the graphs against torch. `labels` int [N], None for unlabelled ones; `source` says which."""

    items: list[Item]
    labels: np.ndarray | None
    source: str
    golden: list[Item]


def check_images(summary: dict[str, Any], data: Path | None) -> CheckImages:
    """The gating validation images; without validation the labelled, without labels the unlabelled training images.

    An imported run without DATA brings synthetic images; with --data it takes what that holds outside test.

    Never test images, and none that the run skipped as unreadable.
    """
    root = data or Path(summary["data"])
    if not data_exists(root):
        raise DhoxError(f"The run's images are no longer at {root}. Say where they are with --data.")
    classes = [entry["name"] for entry in summary["classes"]]
    splits = read_dataset(root, labels=classes)
    skipped = set(summary["skipped"])
    training = [item for item in splits["train"] + splits["unlabelled"] if item.name not in skipped]
    by_name = {item.name: item for item in training + splits["val"]}
    for kind in ("validation", "labelled"):
        names = summary["sets"][kind]
        if not names:
            continue
        missing = [name for name in names if name not in by_name]
        if missing:
            check_labels(list(by_name.values()), classes)  # renamed classes are the likely reason: they are named
            raise DhoxError(f"{root} lacks {len(missing)} of the run's images, such as {missing[0]}. Check --data.")
        everything = [by_name[name] for name in names]
        judge = gate_images(names) if kind == "validation" else np.ones(len(names), bool)
        items = spread([item for item, chosen in zip(everything, judge, strict=True) if chosen], MOST_CHECK_IMAGES)
        return CheckImages(
            items, class_numbers(items, classes), IMAGES[kind, bool(judge.all())], golden_items(everything, training)
        )
    items = spread(training or splits["val"], MOST_CHECK_IMAGES)
    if not items:
        raise DhoxError(
            f"{root} has no image outside test to check the graphs with. Give --data DATA with train or val."
        )
    synthetic = summary["sets"]["selection"] == "imported" and data is None
    source = "synthetic images, for want of real ones" if synthetic else "images, without using their labels"
    return CheckImages(items, None, source, golden_items(items, []))


def golden_items(items: list[Item], more: list[Item]) -> list[Item]:
    """GOLDEN_IMAGES images spread evenly over `items`, filled up from `more`."""
    chosen = spread(items, GOLDEN_IMAGES)
    names = {item.name for item in chosen}
    return chosen + spread([item for item in more if item.name not in names], GOLDEN_IMAGES - len(chosen))


def load_pixels(items: list[Item], preprocessing: Preprocessing) -> np.ndarray:
    """Model inputs of image files, uint8 [N, crop, crop, 3]."""
    with progress_bar("Reading check images", len(items)) as advance:
        pixels = []
        for item in items:
            pixels.append(model_input(read_image(item), preprocessing))
            advance(1)
    return np.stack(pixels)


def torch_probs(module: nn.Module, pixels: np.ndarray, kind: str, preprocessing: Preprocessing) -> np.ndarray:
    """Probs of the torch module, float32 [N, C]."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            batch = graph_input(pixels[start : start + BATCH], kind, preprocessing)
            parts.append(module(torch.from_numpy(np.ascontiguousarray(batch))).numpy())
    return np.concatenate(parts)


def onnx_probs(content: bytes, pixels: np.ndarray, kind: str, preprocessing: Preprocessing) -> np.ndarray:
    """Probs of ONNX Runtime's CPU provider, float32 [N, C]."""
    session = open_session(content, "cpu")
    batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    return np.concatenate([run_session(session, graph_input(batch, kind, preprocessing)) for batch in batches])


def check_against_torch(precision: str, probs: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Compare a graph's answers with torch's. Raises GateFailedError where they differ by more than the tolerance."""
    tolerance = TOLERANCE[precision]
    difference = float(abs(probs - reference).max()) if np.isfinite(probs).all() else float("inf")
    if difference > tolerance:
        raise GateFailedError(
            f"The {precision} graph differs from torch by {difference:.2g} in a probability (allowed: {tolerance:g}). "
            + ("Export without --fp16." if precision == "fp16" else "Please report this student as a bug.")
        )
    agreement = float((probs.argmax(-1) == reference.argmax(-1)).mean())
    return {
        "precision": precision,
        "runner": "onnxruntime CPU" + (", which computes much of fp16 in fp32" if precision == "fp16" else ""),
        "n": len(probs),
        "agreement": agreement,
        "largest_difference": difference,
        "tolerance": tolerance,
    }


def ledger_rows(stages: dict[str, np.ndarray], images: CheckImages, val: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Accuracy stage by stage on the check images, and top-1 agreement with the first torch stage.

    `stages`: name -> probs [N, C], in order. The teacher's row comes from val.npz, where it answered all of them.
    """
    if images.labels is None:
        return []
    predictions = {stage: probs.argmax(-1) for stage, probs in stages.items()}
    first = next(iter(predictions.values()))
    if "teacher_predictions" in val:
        teacher = dict(zip(val["names"].tolist(), val["teacher_predictions"].tolist(), strict=True))
        if all(item.name in teacher for item in images.items):
            predictions = {"teacher": np.array([teacher[item.name] for item in images.items])} | predictions
    return [
        {"stage": stage, **accuracy_row(answer == images.labels), "agreement": float((answer == first).mean())}
        for stage, answer in predictions.items()
    ]

"""Holding written graphs against torch on real images: which images, and the comparison (no torch needed)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.console import progress_bar
from dhox.data.dataset import Item, check_labels, class_numbers, data_exists, read_dataset, spread
from dhox.distill.results.selection import selecting_half
from dhox.errors import DhoxError, GateFailedError
from dhox.evidence.ledger import accuracy_drops, losses
from dhox.evidence.statistics import softmax
from dhox.export.folding.fold import gate_images
from dhox.models.golden import TOLERANCE
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import pixels_of, predict
from dhox.runtimes.tensors import Tensors

MOST_CHECK_IMAGES = 2000
MOST_CALIBRATION_IMAGES = 256
MOST_TUNING_IMAGES = 512
GOLDEN_IMAGES = 32

CPU_RUNNERS = {
    "fp32": "ONNX Runtime CPU",
    "fp16": "ONNX Runtime CPU, which computes much of fp16 in fp32",
    "int8": "ONNX Runtime CPU, emulated: rounded to int8, computed in floating point",
}
# (kind, all of it): what the check images are, in words
IMAGES = {
    ("validation", False): "the gating half of validation",
    ("validation", True): "all of validation, which also chose alpha and beta",
    ("labelled", True): "labelled training images, for want of validation",
}


@dataclass(frozen=True)
class CheckImages:
    """Real images, none of test.

    `items` with `labels` (int [N], None for unlabelled ones) judge the graphs; `source` says what they are. `golden`
    travel with the export. `calibration`: training images, which show precision conversion the range of every tensor.
    `tuning`, `tuning_labels`: on which precisions are chosen: the selecting half of validation where there are halves.
    """

    items: list[Item]
    labels: np.ndarray | None
    source: str
    golden: list[Item]
    calibration: list[Item]
    tuning: list[Item]
    tuning_labels: np.ndarray | None


def check_images(summary: dict[str, Any], data: Path | None) -> CheckImages:
    """The gating validation images; without validation the labelled, without labels the unlabelled training images.

    An imported run without DATA brings synthetic images; with --data it takes what that holds outside test.

    Never test images, and none that the run skipped as unreadable.
    """
    root = data or Path(summary["data"])
    if not data_exists(root):
        raise DhoxError(f"The run's images are no longer at {root}.", "Say where they are with --data.")
    classes = [entry["name"] for entry in summary["classes"]]
    splits = read_dataset(root, labels=classes)
    skipped = set(summary["skipped"])
    training = [item for item in splits["train"] + splits["unlabelled"] if item.name not in skipped]
    by_name = {item.name: item for item in training + splits["val"]}
    calibration = spread(training or splits["val"], MOST_CALIBRATION_IMAGES)
    for kind in ("validation", "labelled"):
        names = summary["sets"][kind]
        if not names:
            continue
        missing = [name for name in names if name not in by_name]
        if missing:
            check_labels(list(by_name.values()), classes)  # renamed classes are the likely reason: they are named
            raise DhoxError(f"{root} lacks {len(missing)} of the run's images, such as {missing[0]}.", "Check --data.")
        everything = [by_name[name] for name in names]
        half = np.ones(len(names), bool)
        judge, select = (gate_images(names), selecting_half(names)) if kind == "validation" else (half, half)
        items = spread([item for item, chosen in zip(everything, judge, strict=True) if chosen], MOST_CHECK_IMAGES)
        tuning = spread([item for item, chosen in zip(everything, select, strict=True) if chosen], MOST_TUNING_IMAGES)
        return CheckImages(
            items, class_numbers(items, classes), IMAGES[kind, bool(judge.all())], golden_items(everything, training),
            calibration, tuning, class_numbers(tuning, classes),
        )  # fmt: skip
    items = spread(training or splits["val"], MOST_CHECK_IMAGES)
    if not items:
        raise DhoxError(
            f"{root} has no image outside test to check the graphs with.", "Give --data DATA with train or val."
        )
    synthetic = summary["sets"]["selection"] in {"imported", "untrained"} and data is None
    source = "synthetic images, for want of real ones" if synthetic else "images, without using their labels"
    tuning = spread(items, MOST_TUNING_IMAGES)
    return CheckImages(items, None, source, golden_items(items, []), calibration, tuning, None)


def golden_items(items: list[Item], more: list[Item]) -> list[Item]:
    """GOLDEN_IMAGES images spread evenly over `items`, filled up from `more`."""
    chosen = spread(items, GOLDEN_IMAGES)
    names = {item.name for item in chosen}
    return chosen + spread([item for item in more if item.name not in names], GOLDEN_IMAGES - len(chosen))


def load_pixels(items: list[Item], preprocessing: Preprocessing, description: str) -> np.ndarray:
    """Model inputs of image files, uint8 [N, crop, crop, 3]."""
    with progress_bar(description, len(items)) as advance:
        pixels = []
        for item in items:
            pixels.append(pixels_of([item], preprocessing))
            advance(1)
    return np.concatenate(pixels)


def onnx_probs(content: bytes, pixels: np.ndarray, kind: str, preprocessing: Preprocessing) -> np.ndarray:
    """Probs of ONNX Runtime's CPU provider, float32 [N, C]."""
    return predict(OnnxSession(content), Tensors(preprocessing, kind), pixels)


def check_against_torch(precision: str, probs: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """`check_against` torch's answers, for a graph that was just exported."""
    advice = "Please report this student as a bug." if precision == "fp32" else f"Export without --{precision}."
    return check_against(precision, probs, reference, precision, "torch", CPU_RUNNERS[precision], advice)


def check_against(
    precision: str, probs: np.ndarray, reference: np.ndarray, graph: str, against: str, runner: str, advice: str
) -> dict[str, Any]:
    """Compare a graph's answers with a reference's; plain values for the manifest's checks.

    `graph`, `against`: what is compared, in words. Raises GateFailedError where a probability differs by more than the
    tolerance of the precision; int8 has none (its accuracy is gated), but its answers must be finite.
    """
    tolerance = TOLERANCE.get(precision)
    difference = float(abs(probs - reference).max()) if np.isfinite(probs).all() else float("inf")
    allowed = 1.0 if tolerance is None else tolerance
    if difference > allowed:
        raise GateFailedError(
            f"The {graph} graph differs from {against} by {difference:.2g} in a probability (allowed: {allowed:g}).",
            f"{advice}",
        )
    return {
        "precision": precision,
        "runner": runner,
        "against": against,
        "n": len(probs),
        "agreement": float((probs.argmax(-1) == reference.argmax(-1)).mean()),
        "largest_difference": difference,
        "tolerance": tolerance,
    }


def val_rows(val: dict[str, np.ndarray], names: list[str]) -> np.ndarray | None:
    """The rows int [N] of val.npz that hold these images, or None where one is not there."""
    row = {name: number for number, name in enumerate(val["names"].tolist())}
    return np.array([row[name] for name in names], int) if all(name in row for name in names) else None


def teacher_probs(names: list[str], val: dict[str, np.ndarray]) -> np.ndarray | None:
    """The teacher's probs of the images `names`, [N, C], from val.npz; None where it did not answer all of them."""
    rows = val_rows(val, names)
    return None if rows is None or "teacher_logits" not in val else softmax(val["teacher_logits"][rows])


def check_accuracy_drop(ledger: dict[str, Any], reference: str, allowed: float | None) -> None:
    """Raise GateFailedError where an ONNX stage has more than `allowed` points less accuracy than `reference`.

    Without labels the ledger has no rows, and nothing is judged here.
    """
    if allowed is None or not ledger["rows"]:
        return
    drops = accuracy_drops(ledger["rows"], reference)
    worst = max((stage for stage in drops if stage.startswith("onnx_")), key=drops.__getitem__)
    if drops[worst] > allowed:
        rows = ledger["rows"]
        first = losses(rows[[row["stage"] for row in rows].index(reference) + 1 :])[0]
        raise GateFailedError(
            f"{worst} is {drops[worst]:.2f} points less accurate than {reference} on {ledger['rows'][0]['n']} images "
            f"of {ledger['images']} (allowed: {allowed:g}); the first stage that lost is {first['stage']} "
            f"({first['points']:+.2f} points, McNemar p = {first['mcnemar_p']:.2g}).",
            "Allow more with --max-accuracy-drop, or leave that step out (--fold-rule exact, no --fp16, no --int8).",
        )

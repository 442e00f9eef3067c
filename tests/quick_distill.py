"""A training of a second, for tests: real images, the real teacher, a tiny real student."""

from __future__ import annotations

import shutil
from pathlib import Path

import dhox
from dhox.distill.results.outcome import RunResult

DEMO_TEACHER = f"local-dir:{Path(__file__).parents[1] / 'src/dhox/demo/teacher'}"
QUICK = {
    "teacher": DEMO_TEACHER, "student": "test_resnet", "student_weights": "none", "image_size": 28, "epochs": 1,
    "batch_labelled": 8, "batch_unlabelled": 32, "views": 2, "device": "cpu",
}  # fmt: skip


def quick(data: Path, out: str = "runs/x", **options: object) -> RunResult:
    return dhox.distill(data, out, **{**QUICK, **options})  # type: ignore[operator]


def without(data: Path, *parts: str) -> Path:
    """A copy of DATA without some of its folders."""
    copy = Path("data").absolute()
    shutil.copytree(data, copy)
    for part in parts:
        shutil.rmtree(copy / part)
    return copy

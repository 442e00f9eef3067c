"""The manifest of an export that was never trained: for tests of what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Preprocessing, StudentEntry, class_entries
from dhox.artefacts.files import sha256
from dhox.artefacts.golden import GOLDEN_FILE
from dhox.artefacts.manifest import (
    SIDE_FILES,
    Artefact,
    Fold,
    HalfConversion,
    Int8Conversion,
    Manifest,
    Precision,
    SourceRun,
    model_metadata,
)
from dhox.artefacts.record import write_record
from dhox.models.golden import make_golden

FOLD = Fold("exact", 0.4, 0.5)
CONVERSIONS: dict[str, Any] = {
    "fp32": None,
    "fp16": HalfConversion([], 1.0, 0.0, 1),
    "int8": Int8Conversion([], [], 1.0, "minmax", 1, 1, True, 1.0, 0.0, None),
}
FILES: dict[str, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


def write_model(
    folder: Path,
    model: onnx.ModelProto,
    classes: list[str],
    preprocessing: Preprocessing,
    precision: Precision = "fp32",
) -> Path:
    """An ONNX file that says of itself what dhox writes."""
    for key, value in model_metadata(classes, preprocessing, FOLD).items():
        model.metadata_props.add(key=f"dhox.{key}", value=json.dumps(value, ensure_ascii=False))
    onnx.save(model, folder / FILES[precision])
    return folder / FILES[precision]


def make_manifest(
    folder: Path, classes: list[str], preprocessing: Preprocessing, kind: Any = "uint8-nhwc",
    default: Precision = "fp32", **more: Any,
) -> Manifest:  # fmt: skip
    """Write manifest.json for the models that lie in a folder; `more`: other fields."""
    entries = [
        Artefact(
            file=name, precision=precision, opset=18, ir=10, input=kind,  # type: ignore[arg-type]
            bytes=(folder / name).stat().st_size, sha256=sha256(folder / name), golden_agreement=None,
            placement="not run", conversion=CONVERSIONS[precision],
        )
        for precision, name in FILES.items() if (folder / name).exists()
    ]  # fmt: skip
    probs = np.full((1, len(classes)), 1 / len(classes), np.float32)
    image = Image.new("RGB", (preprocessing.resize, preprocessing.resize), "green")
    write_arrays(folder / GOLDEN_FILE, make_golden([image], preprocessing, lambda pixels: probs))
    values: dict[str, Any] = {
        "finished_at": "2026-01-01T00:00:00.000000+00:00", "run": SourceRun("/runs/my run.2", "dho", "0" * 64),
        "skipped": [], "data": "d", "student": StudentEntry("resnet18", preprocessing.crop, len(classes), True, weights="none"),
        "teacher": None, "classes": class_entries([(name, name) for name in classes]), "preprocessing": preprocessing,
        "n_selection_labels": 0, "metric": "accuracy", "fold": FOLD, "fold_asked": "exact", "fold_note": None,
        "searched": False, "evidence": None, "comparison": [], "checks": [], "reject": None, "artefacts": entries,
        "default": default, "environment": {}, "files": dict.fromkeys(SIDE_FILES, "0" * 64) | {GOLDEN_FILE: sha256(folder / GOLDEN_FILE)},
    }  # fmt: skip
    manifest = Manifest(**{**values, **more})
    write_record(folder / "manifest.json", manifest)
    return manifest

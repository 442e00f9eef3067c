"""An export as a function of images: `dhox.load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.errors import DhoxError
from dhox.models.engines import open_engine
from dhox.models.export_directory import artefact, check_file, read_manifest
from dhox.runtimes.onnxruntime_api import default_device
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import ImageLike, predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensors import Tensors


class ExportedModel:
    """A loaded export: call it with images to get class probabilities. Threads take turns.

    `classes`: names in index order. `preprocessing`: what happens before the graph. `reject_threshold`: the top
    probability below which the answer is "unknown"; None where the export has none (--reject-coverage).
    """

    def __init__(
        self, export: Path, manifest: dict[str, Any], device: str, precision: str | None, trust_engine: bool = False
    ) -> None:
        self.session: Session
        self.lock = Lock()
        if device == "tensorrt":
            self.session = open_engine(export, manifest, precision, trust_engine)
            self.entry = artefact(manifest, self.session.facts.precision_asked)
        else:
            self.entry = artefact(manifest, precision)
            file = check_file(export, self.entry["file"], self.entry["sha256"])
            self.session = OnnxSession(file, device, precision=self.entry["precision"])
        self.classes = [entry["name"] for entry in manifest["classes"]]
        self.reject_threshold: float | None = (manifest["reject"] or {}).get("threshold")
        self.preprocessing = Preprocessing.from_json(manifest["preprocessing"])
        self.tensors = Tensors(self.preprocessing, self.entry["input"])

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Probabilities float32 [N, C] of one image or several: paths, PIL images, or uint8 RGB arrays [H, W, 3]."""
        batch = [images] if isinstance(images, (str, Path, Image.Image, np.ndarray)) else list(images)
        if not batch:
            return np.zeros((0, len(self.classes)), np.float32)
        with self.lock:
            return predict(self.session, self.tensors, batch)


def load(
    export: str | Path, device: str = "auto", precision: str | None = None, trust_engine: bool = False
) -> ExportedModel:
    """Load an export directory for inference with ONNX Runtime, or with TensorRT; no torch needed.

    `device`: auto, cpu, cuda or tensorrt (the newest engine that fits this machine). `precision`: fp32 or fp16; by
    default the export's own choice on CUDA, fp32 on the CPU, whose provider only emulates fp16, and that of the engine
    on TensorRT. `trust_engine`: load an engine that this user did not build here; it can run any code. Raises DhoxError
    for a damaged or unfinished export, or where no engine fits.
    """
    manifest = read_manifest(Path(export))
    if device == "auto":
        device = default_device()
    if device not in {"cpu", "cuda", "tensorrt"}:
        raise DhoxError(f"The device {device!r} is unknown.", "Use auto, cpu, cuda or tensorrt.")
    if precision is None and device == "cpu":
        precision = "fp32"
    return ExportedModel(Path(export), manifest, device, precision, trust_engine)

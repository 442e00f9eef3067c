"""An export as a function of images: `dhox.load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.data.images import decode, model_input, to_rgb
from dhox.errors import DhoxError
from dhox.models.engines import open_engine
from dhox.models.export_directory import artefact, check_file, graph_input, read_manifest, run_session
from dhox.runtimes.onnxruntime_session import NO_CPU_KERNELS, default_device, open_session

ImageLike = str | Path | Image.Image | np.ndarray


class ExportedModel:
    """A loaded export: call it with images to get class probabilities.

    `classes`: names in index order. `preprocessing`: what happens before the graph. `reject_threshold`: the top
    probability below which the answer is "unknown"; None where the export has none (--reject-coverage).
    """

    def __init__(
        self, export: Path, manifest: dict[str, Any], device: str, precision: str | None, trust_engine: bool = False
    ) -> None:
        self.session: Any
        if device == "tensorrt":
            sidecar, self.session = open_engine(export, manifest, precision, trust_engine)
            self.entry = artefact(manifest, sidecar["precision"])
        else:
            self.entry = artefact(manifest, precision)
            if device == "cpu" and self.entry["precision"] in NO_CPU_KERNELS:
                raise DhoxError(
                    f"ONNX Runtime's CPU provider cannot run {self.entry['precision']}.",
                    "Use --precision fp32, or a GPU.",
                )
            self.session = open_session(check_file(export, self.entry["file"], self.entry["sha256"]), device)
        self.classes = [entry["name"] for entry in manifest["classes"]]
        self.reject_threshold: float | None = (manifest["reject"] or {}).get("threshold")
        self.preprocessing = Preprocessing.from_json(manifest["preprocessing"])

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Probabilities float32 [N, C] of one image or several: paths, PIL images, or uint8 RGB arrays [H, W, 3]."""
        batch = [images] if isinstance(images, (str, Path, Image.Image, np.ndarray)) else list(images)
        if not batch:
            return np.zeros((0, len(self.classes)), np.float32)
        return self.run(np.stack([model_input(as_image(image), self.preprocessing) for image in batch]))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities float32 [N, C] of preprocessed pixels, uint8 [N, crop, crop, 3]."""
        return run_session(self.session, graph_input(pixels, self.entry["input"], self.preprocessing))


def as_image(image: ImageLike) -> Image.Image:
    """Any accepted image as upright RGB."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DhoxError(
                f"An array image is uint8 RGB [H, W, 3], not {image.dtype} {list(image.shape)}.", "Convert it."
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return to_rgb(image, "image")
    path = Path(image)
    if not path.is_file():
        raise DhoxError(f"{path} does not exist.", "Check the path.")
    return decode(path)


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

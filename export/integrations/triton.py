"""An export for Triton Inference Server: a model repository for its ONNX Runtime backend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.embeddings import EMBEDDING
from dhox.artefacts.manifest import Artefact
from dhox.models.camera_files import camera_files
from dhox.models.export_directory import Export

LARGEST_BATCH = 64


def triton_files(export: Export, entry: Artefact) -> dict[str, bytes]:
    """A repository with one model, and one more for each camera file of its precision: config.pbtxt, labels.txt and
    1/model.onnx."""
    crop = export.manifest.preprocessing.crop
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(export.manifest.run.path).name).strip("_") or "dhox"
    shape = (crop, crop, 3) if entry.input == "uint8-nhwc" else (3, crop, crop)
    data_type = "TYPE_UINT8" if entry.input == "uint8-nhwc" else "TYPE_FP32"
    smaller = "" if export.manifest.preprocessing.jpeg_side is None else ", JPEG files decoded scaled included"
    plain = Served(name, entry.file, entry.precision, entry.sha256, data_type, shape)
    files = model_files(
        plain, export, export.model(entry), f"Clients preprocess as example.py of the export does{smaller}."
    )
    for one in camera_files(export, entry.precision):
        model, camera = one.model, one.camera
        served = Served(
            f"{name}_{one.folder.name}", model.file, model.precision, model.sha256, "TYPE_UINT8", camera.shape
        )
        said = f"Clients send raw frames ({camera.size} {camera.format}): nothing is left to preprocess."
        files |= model_files(served, export, one.onnx(), said)
    return files


@dataclass(frozen=True)
class Served:
    """A model of the repository: its name, its file in the export, and its input as Triton calls it."""

    name: str
    file: str
    precision: str
    sha256: str
    data_type: str
    shape: tuple[int, ...]


def model_files(model: Served, export: Export, onnx: Path, clients: str) -> dict[str, bytes]:
    """The files of one model. `clients`: what they have to do, in a sentence."""
    classes, dims = export.manifest.names, ", ".join(map(str, model.shape))
    embedding = export.manifest.embedding
    second = f', {{ name: "{EMBEDDING}", data_type: TYPE_FP32, dims: [ {embedding} ] }}' if embedding else ""
    text = f"""\
# {model.file} ({model.precision}); written by dhox export --emit triton.
# Serve it with: tritonserver --model-repository=FOLDER, where FOLDER holds {model.name}/.
# {clients}
name: "{model.name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [ {{ name: "image", data_type: {model.data_type}, dims: [ {dims} ] }} ]
output [ {{ name: "probs", data_type: TYPE_FP32, dims: [ {len(classes)} ], label_filename: "labels.txt" }}{second} ]
dynamic_batching {{ }}
parameters {{ key: "dhox_sha256", value: {{ string_value: "{model.sha256}" }} }}
"""
    return {
        f"{model.name}/config.pbtxt": text.encode(),
        f"{model.name}/labels.txt": "".join(" ".join(label.split()) + "\n" for label in classes).encode(),
        f"{model.name}/1/model.onnx": onnx.read_bytes(),
    }

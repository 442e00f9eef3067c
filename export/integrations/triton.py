"""An export for Triton Inference Server: a model repository for its ONNX Runtime backend."""

from __future__ import annotations

import re
from pathlib import Path

from dhox.artefacts.manifest import Artefact
from dhox.models.export_directory import Export

LARGEST_BATCH = 64


def triton_files(export: Export, entry: Artefact) -> dict[str, bytes]:
    """A repository with one model: config.pbtxt, labels.txt and 1/model.onnx."""
    crop, classes = export.manifest.preprocessing.crop, export.manifest.names
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(export.manifest.run.path).name).strip("_") or "dhox"
    data_type = "TYPE_UINT8" if entry.input == "uint8-nhwc" else "TYPE_FP32"
    dims = f"{crop}, {crop}, 3" if entry.input == "uint8-nhwc" else f"3, {crop}, {crop}"
    smaller = "" if export.manifest.preprocessing.jpeg_side is None else ", JPEG files decoded scaled included"
    text = f"""\
# {entry.file} ({entry.precision}, input {entry.input}); written by dhox export --emit triton.
# Serve it with: tritonserver --model-repository=FOLDER, where FOLDER holds {name}/.
# Clients preprocess as example.py of the export does{smaller}.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [ {{ name: "image", data_type: {data_type}, dims: [ {dims} ] }} ]
output [ {{ name: "probs", data_type: TYPE_FP32, dims: [ {len(classes)} ], label_filename: "labels.txt" }} ]
dynamic_batching {{ }}
parameters {{ key: "dhox_sha256", value: {{ string_value: "{entry.sha256}" }} }}
"""
    return {
        f"{name}/config.pbtxt": text.encode(),
        f"{name}/labels.txt": "".join(" ".join(label.split()) + "\n" for label in classes).encode(),
        f"{name}/1/model.onnx": export.model(entry).read_bytes(),
    }

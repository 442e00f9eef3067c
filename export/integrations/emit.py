"""A finished export for its neighbours: example.py, DeepStream's nvinfer, Triton Inference Server (no torch needed)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import EXPORT_FILE, output_directory, read_json, sha256, write_bytes, write_json
from dhox.errors import DhoxError
from dhox.models.export_directory import artefact, check_file, read_manifest
from dhox.system.environment import now

EMIT_FILE, EMIT_SCHEMA = "emit.json", "dhox.emit/1"
KINDS = ("deepstream", "triton")
TRITON_BATCH = 64
ONNXRUNTIME_PRECISIONS = ("fp16", "fp32")
GRAPH_INPUTS = {  # the line of example.py that turns an RGB image into the graph's input
    "uint8-nhwc": "np.asarray(image)[None]",
    "float-nchw": "((np.asarray(image, np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)[None]",
    "float-nchw-255": "np.asarray(image, np.float32).transpose(2, 0, 1)[None]",
}


def example_text(manifest: dict[str, Any]) -> str:
    """example.py of an export: its preprocessing contract and its CPU model in numpy, Pillow and onnxruntime alone.

    It takes the fp32 file where there is one, as `dhox predict` does on a CPU.
    """
    precisions = [entry["precision"] for entry in manifest["artefacts"]]
    entry = artefact(manifest, "fp32" if "fp32" in precisions else None)
    contract = Preprocessing.from_json(manifest["preprocessing"])
    threshold = reject_threshold(manifest)
    constants = [f"RESIZE, CROP, KERNEL = {contract.resize}, {contract.crop}, Image.Resampling.{contract.interpolation.upper()}"]  # fmt: skip # noqa: E501
    if entry["input"] == "float-nchw":
        mean, std = list(contract.mean), list(contract.std)
        constants.append(f"MEAN, STD = np.array({mean}, np.float32), np.array({std}, np.float32)")
    answer = "print(path, CLASSES[row.argmax()], round(float(row.max()), 6))"
    if threshold is not None:
        constants.append(f"REJECT_BELOW = {threshold!r}  # a lower probability means: unknown")
        answer = (
            'print(path, CLASSES[row.argmax()] if row.max() >= REJECT_BELOW else "unknown", round(float(row.max()), 6))'
        )
    return f'''"""Classify images: python example.py IMAGE ... (numpy, Pillow and onnxruntime; written by dhox)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{chr(10).join(constants)}
SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("{entry["file"]}"), providers=["CPUExecutionProvider"])
CLASSES = json.loads(SESSION.get_modelmeta().custom_metadata_map["dhox.classes"])


def graph_input(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    size = [RESIZE if side == min(image.size) else int(RESIZE * side / min(image.size)) for side in image.size]
    image = image.convert("RGB").resize(size, KERNEL)
    left, top = (round((side - CROP) / 2) for side in size)
    image = image.crop((left, top, left + CROP, top + CROP))
    return {GRAPH_INPUTS[entry["input"]]}


for path in sys.argv[1:]:
    row = SESSION.run(["probs"], {{"image": graph_input(path)}})[0][0]
    {answer}
'''


def emit(export: Path, kind: str) -> Path:
    """Write EXPORT/deepstream or EXPORT/triton from a finished export, and return that folder.

    The model is the export's default one; for Triton, whose backend here is ONNX Runtime, fp16 or fp32.

    The folder appears whole or not at all, and replaces one that `emit` wrote before. Raises DhoxError for a damaged
    export, for a graph that the neighbour cannot feed, and for a folder that holds anything else or was edited.
    """
    manifest = read_manifest(export)
    precisions = [entry["precision"] for entry in manifest["artefacts"]]
    # ONNX Runtime with its default options, which Triton uses, answers int8 files with a half-precision rest wrongly.
    by_onnxruntime = kind == "triton" and manifest["default"] not in ONNXRUNTIME_PRECISIONS
    entry = artefact(manifest, next(p for p in ONNXRUNTIME_PRECISIONS if p in precisions) if by_onnxruntime else None)
    check_file(export, entry["file"], entry["sha256"])
    folder = export / kind
    check_unedited(folder)
    contents = deepstream_files(manifest, entry) if kind == "deepstream" else triton_files(export, manifest, entry)
    with output_directory(folder, EMIT_FILE, EMIT_SCHEMA, overwrite=True) as work:
        for name, content in contents.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(work / name, content)
        about = {
            "schema": EMIT_SCHEMA,
            "status": "complete",
            "finished_at": now(),
            "kind": kind,
            "manifest_sha256": sha256(export / EXPORT_FILE),
            "files": {name: sha256(work / name) for name in contents},
        }
        write_json(work / EMIT_FILE, about)
    return folder


def check_unedited(folder: Path) -> None:
    """Raise DhoxError where an emitted folder no longer holds what was emitted: that would be lost."""
    if not (folder / EMIT_FILE).is_file():
        return  # output_directory refuses whatever else may lie there
    known = read_json(folder / EMIT_FILE, EMIT_SCHEMA).get("files", {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != EMIT_FILE and (name not in known or sha256(path) != known[name]):
            raise DhoxError(f"{path} was edited or added since it was emitted.", "Move it away, then emit again.")


def reject_threshold(manifest: dict[str, Any]) -> float | None:
    """The probability below which the answer is unknown, where the export has one."""
    threshold: float | None = (manifest.get("reject") or {}).get("threshold")
    return threshold


def label(name: str) -> str:
    """A class name that fits into a line of labels."""
    return " ".join(name.split())


def deepstream_files(manifest: dict[str, Any], entry: dict[str, Any]) -> dict[str, bytes]:
    """config_infer.txt and labels.txt for Gst-nvinfer, version 9 and earlier ones as far as they know the keys."""
    if entry["input"] != "float-nchw-255":
        raise DhoxError(
            f"DeepStream's nvinfer feeds float32 planes scaled by one factor, and this export takes {entry['input']}.",
            "Export the run again: dhox export RUN --input float-nchw-255 --out ANOTHER --emit deepstream",
        )
    contract = Preprocessing.from_json(manifest["preprocessing"])
    classes = [item["name"] for item in manifest["classes"]]
    threshold = reject_threshold(manifest)
    older = {"fp32": "network-mode=0", "fp16": "network-mode=2"}.get(entry["precision"], "another precision")
    text = f"""\
# Gst-nvinfer classifier of {entry["file"]} ({entry["precision"]}); written by dhox export --emit deepstream.
#
# The network was evaluated with: shorter side to {contract.resize} px ({contract.interpolation}, antialiased), centre crop {contract.crop} px.
# nvinfer does something else: it stretches the whole frame, bilinear and without antialiasing. On 1,000 photographs
# (EfficientNet-Lite0, 224 px; docs/deploy.md) that cost 3.7 points of top-1, and padding instead (maintain-aspect-ratio=1)
# 7.9. What cost nothing there: cutting the centre square before nvinfer ({100 * contract.crop / contract.resize:.0f} % of the shorter side: nvvideoconvert
# src-crop, or nvdspreprocess), so that the stretch changes no shape. Measure it on your own images before you ship:
#   python benchmarks/preprocessing_mismatch.py DATA --export EXPORT
#
# Precision is written into the ONNX file: strongly-typed obeys it (network-mode stays 0 then: its flags are refused
# there). A DeepStream that prints "Unknown or legacy key" for strongly-typed needs {older} instead.
# The engine is built at the first start and kept under model-engine-file: delete it after every new export.
# As a secondary classifier on detected objects: process-mode=2 and operate-on-gie-id.
[property]
gpu-id=0
gie-unique-id=1
process-mode=1
network-type=1
onnx-file=../{entry["file"]}
model-engine-file=../{entry["file"]}_b1_gpu0_fp32.engine
labelfile-path=labels.txt
batch-size=1
network-mode=0
strongly-typed=1
infer-dims=3;{contract.crop};{contract.crop}
network-input-order=0
model-color-format=0
net-scale-factor=1.0
offsets=0;0;0
maintain-aspect-ratio=0
scaling-filter=1
output-blob-names=probs
classifier-threshold={0.0 if threshold is None else threshold!r}
"""  # noqa: E501
    labels = ";".join(label(name).replace(";", ",") for name in classes) + "\n"
    return {"config_infer.txt": text.encode(), "labels.txt": labels.encode()}


def triton_files(export: Path, manifest: dict[str, Any], entry: dict[str, Any]) -> dict[str, bytes]:
    """A model repository with one model for Triton's onnxruntime backend: config.pbtxt, labels.txt and 1/model.onnx."""
    crop, classes = manifest["preprocessing"]["crop"], [item["name"] for item in manifest["classes"]]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(manifest["run"]["path"]).name).strip("_") or "dhox"
    data_type = "TYPE_UINT8" if entry["input"] == "uint8-nhwc" else "TYPE_FP32"
    dims = f"{crop}, {crop}, 3" if entry["input"] == "uint8-nhwc" else f"3, {crop}, {crop}"
    text = f"""\
# {entry["file"]} ({entry["precision"]}, input {entry["input"]}); written by dhox export --emit triton.
# Serve it with: tritonserver --model-repository=FOLDER, where FOLDER holds {name}/.
# Clients preprocess as example.py of the export does.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {TRITON_BATCH}
input [ {{ name: "image", data_type: {data_type}, dims: [ {dims} ] }} ]
output [ {{ name: "probs", data_type: TYPE_FP32, dims: [ {len(classes)} ], label_filename: "labels.txt" }} ]
dynamic_batching {{ }}
parameters {{ key: "dhox_sha256", value: {{ string_value: "{entry["sha256"]}" }} }}
"""
    return {
        f"{name}/config.pbtxt": text.encode(),
        f"{name}/labels.txt": "".join(label(item) + "\n" for item in classes).encode(),
        f"{name}/1/model.onnx": (export / entry["file"]).read_bytes(),
    }

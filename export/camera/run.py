"""`dhox export EXPORT --camera WIDTHxHEIGHT`: models that take raw frames, proven against Pillow. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.camera import CAMERA_FILE, FRAMES_FILE, CameraModel, Cost, GoldenFrames
from dhox.artefacts.engine import SourceFile
from dhox.artefacts.files import check_output, output_directory, sha256, write_bytes
from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import Artefact, Precision
from dhox.artefacts.record import write_record
from dhox.export.camera.attach import attached
from dhox.export.camera.graph import frame_to_pixels
from dhox.export.camera.proof import Proof, prove
from dhox.export.camera.resampling import resize_of
from dhox.export.graphs.onnx_contract import IR_VERSION
from dhox.export.integrations.example_camera import EXAMPLE_CAMERA_FILE, example_camera_text
from dhox.models.camera_files import CAMERA_SCHEMA, camera_folder
from dhox.models.export_directory import Export, open_export
from dhox.system.environment import now

GOLDEN_FRAMES = 2  # a frame of 1920x1080 has megabytes


def add_cameras(
    path: Path, cameras: list[Camera], precisions: tuple[Precision, ...] = (), overwrite: bool = False
) -> list[CameraModel]:
    """Write a camera file of each camera and precision (the export's default one) below EXPORT/cameras.

    The export itself does not change. Raises DhoxError for a damaged export and for folders that are there already, and
    GateFailedError (nothing kept) where a file does not see what Pillow sees, or answers otherwise.
    """
    export = open_export(path)
    entries = [export.entry(precision) for precision in dict.fromkeys(precisions) or [None]]
    jobs = [(camera, entry, camera_folder(path, camera, entry.precision)) for camera in cameras for entry in entries]
    for _, _, folder in jobs:
        check_output(folder, CAMERA_FILE, CAMERA_SCHEMA, overwrite)
    return [_write(export, *job, overwrite) for job in jobs]


def _write(export: Export, camera: Camera, entry: Artefact, folder: Path, overwrite: bool) -> CameraModel:
    dtype = np.float32 if entry.precision == "fp32" else np.float16
    nodes = frame_to_pixels(camera, resize_of(camera, export.manifest.preprocessing), dtype)
    content = attached(export.model(entry).read_bytes(), entry, export.manifest, camera, nodes)
    cost = Cost(nodes.mac, nodes.dense_mac, int(np.prod(camera.shape)))
    proof = prove(export, entry, camera, content)
    name = f"model.camera-{camera.size}-{camera.format}.{entry.precision}.onnx"
    with output_directory(folder, CAMERA_FILE, CAMERA_SCHEMA, overwrite) as partial:
        write_bytes(partial / name, content)
        write_arrays(partial / FRAMES_FILE, golden(proof))
        example = example_camera_text(name, entry.precision, camera, export.manifest.reject)
        write_bytes(partial / EXAMPLE_CAMERA_FILE, example.encode())
        model = CameraModel(
            finished_at=now(), camera=camera, precision=entry.precision, source=SourceFile(entry.file, entry.sha256),
            file=name, bytes=len(content), sha256=sha256(partial / name), opset=entry.opset, ir=IR_VERSION, cost=cost,
            pixels=proof.pixels, check=proof.check, ledger=proof.ledger, ledger_note=proof.ledger_note,
            files={beside: sha256(partial / beside) for beside in (FRAMES_FILE, EXAMPLE_CAMERA_FILE)},
        )  # fmt: skip
        write_record(partial / CAMERA_FILE, model)
    return model


def golden(proof: Proof) -> GoldenFrames:
    """The first frames of a proof, as they travel with the file."""
    frames = proof.frames[:GOLDEN_FRAMES]
    return GoldenFrames(frames.reshape(len(frames), -1), proof.inputs[: len(frames)], proof.probs[: len(frames)])

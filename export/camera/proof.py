"""What proves a camera file: its pixels against Pillow's, and its answers against the ordinary file behind Pillow."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dhox.artefacts.camera import PixelCheck
from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.manifest import Artefact, Check
from dhox.data.dataset import class_numbers, read_image
from dhox.data.frames import filmed, frame_input
from dhox.data.items import spread
from dhox.errors import GateFailedError
from dhox.evidence.device_ledger import ledger_items
from dhox.evidence.ledger import stage_row
from dhox.export.camera.attach import with_pixels
from dhox.export.camera.graph import PIXELS
from dhox.export.parity import CPU_RUNNERS, onnx_probs
from dhox.models.export_directory import Export
from dhox.progress import progress_bar
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.tensors import FRAMES, Tensors

MOST_FRAMES = 32
BATCH = 4  # frames that are held at once, beside the golden ones
LEAST_WITHIN_ONE = 0.995  # share of values that may not differ by more than one level
DECIDED = 0.1  # a label must stay where the two most probable classes are further apart


@dataclass(frozen=True)
class Proof:
    """What was found. `frames` [N, ...], `inputs` (Pillow's) and `probs`: of the first few frames."""

    pixels: PixelCheck
    check: Check
    ledger: DeviceRow | None
    ledger_note: str | None
    frames: np.ndarray
    inputs: np.ndarray
    probs: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """The pictures that are filmed: `labels` int [N] and `note` None where they are the ledger's images."""

    pictures: list[Image.Image]
    text: str
    labels: np.ndarray | None
    note: str | None


def prove(export: Export, entry: Artefact, camera: Camera, content: bytes) -> Proof:
    """Hold a camera file against Pillow and its source. Raises GateFailedError where it sees or answers otherwise."""
    scenes = _scenes(export)
    tensors, preprocessing = Tensors(export.manifest.preprocessing, FRAMES), export.manifest.preprocessing
    model, pixels = OnnxSession(content), OnnxSession(with_pixels(content), names=("image", PIXELS))
    first: list[np.ndarray] = []
    inputs, probs, differences = [], [], []
    film = partial(_film, camera=camera, preprocessing=preprocessing)
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("Camera frames", len(scenes.pictures)) as advance:
        for start in range(0, len(scenes.pictures), BATCH):
            filmed_now = list(pool.map(film, scenes.pictures[start : start + BATCH]))
            frames = np.stack([frame for frame, _ in filmed_now])
            expected = np.stack([seen for _, seen in filmed_now])
            probs.append(tensors.probs(model.infer(frames)))
            seen = pixels.infer(frames).transpose(0, 2, 3, 1)
            differences.append(abs(seen - expected).astype(np.uint8).ravel())
            inputs.append(expected)
            first += [frames] if not first else []
            advance(len(frames))
    seen_by_pillow, answers = np.concatenate(inputs), np.concatenate(probs)
    ordinary = onnx_probs(export.model(entry).read_bytes(), seen_by_pillow, export.tensors(entry))
    row = None
    if scenes.labels is not None:
        row = stage_row(
            DeviceRow, answers, scenes.labels, ordinary, stage=f"onnx_{entry.precision}", precision=entry.precision
        )
    return Proof(
        _pixel_check(np.concatenate(differences), len(scenes.pictures), scenes.text),
        _check(entry, answers, ordinary), row, scenes.note, first[0], seen_by_pillow, answers,
    )  # fmt: skip


def _film(image: Image.Image, camera: Camera, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    frame = filmed(image, camera)
    return frame, frame_input(frame, camera, preprocessing)


def _scenes(export: Export) -> Scenes:
    """Images of the export's ledger where they are at hand, else its golden ones."""
    manifest, ledger = export.manifest, export.ledger()
    items, note = ledger_items(Path(manifest.data), manifest.names, ledger, export.images())
    if note is not None:
        return Scenes([Image.fromarray(image) for image in export.golden().decoded], "golden images", None, note)
    chosen = spread(items, MOST_FRAMES)
    labels = class_numbers(chosen, manifest.names)
    return Scenes([read_image(item) for item in chosen], f"{len(chosen)} images of {ledger.images}", labels, None)


def _pixel_check(differences: np.ndarray, frames: int, text: str) -> PixelCheck:
    """Raises GateFailedError where too many values differ by more than one level."""
    found = PixelCheck(
        frames, text, float((differences == 0).mean()), float((differences <= 1).mean()), float(differences.max())
    )
    if found.within_one < LEAST_WITHIN_ONE:
        raise GateFailedError(
            f"Only {100 * found.within_one:.2f} % of the backbone's input are within one level of Pillow's (needed: "
            f"{100 * LEAST_WITHIN_ONE:g} %; largest difference {found.largest:g} of 255).",
            "Nothing was kept. Where nv12 or yuyv frames are full of saturated colours, convert them to rgb first "
            "(docs/camera.md); else report this camera and contract as a bug.",
        )
    return found


def _check(entry: Artefact, answers: np.ndarray, ordinary: np.ndarray) -> Check:
    """The camera file's answers against the ordinary file's. Raises GateFailedError where a decided label differs."""
    same = answers.argmax(-1) == ordinary.argmax(-1)
    ordered = np.sort(ordinary, axis=-1)
    wrong = ~same & (ordered[:, -1] - ordered[:, -2] > DECIDED)
    finite = bool(np.isfinite(answers).all())
    if wrong.any() or not finite:
        raise GateFailedError(
            f"The camera file answers {int(wrong.sum())} of {len(same)} frames with another label than {entry.file} "
            "behind Pillow, though that is sure."
            if finite
            else "The camera file answers with what is no number.",
            "Nothing was kept. Please report this camera and contract as a bug.",
        )
    difference = float(abs(answers - ordinary).max())
    runner = CPU_RUNNERS[entry.precision]
    return Check(
        entry.precision, runner, f"{entry.file} behind Pillow", len(same), float(same.mean()), difference, None
    )

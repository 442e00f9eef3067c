"""dhox verify: whether an export is whole on this machine, and answers as it did where it was made (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dhox.artefacts.camera import FRAMES_FILE
from dhox.artefacts.embeddings import EMBEDDINGS_FILE
from dhox.artefacts.engine import ENGINE_FILE, PLAN_FILE
from dhox.artefacts.files import sha256
from dhox.artefacts.golden import GOLDEN_FILE, JPEG_TOLERANCE, Golden, GoldenResult
from dhox.artefacts.manifest import Artefact
from dhox.artefacts.rehearsal import REHEARSAL_FILE
from dhox.data.frames import frame_input
from dhox.errors import DhoxError
from dhox.models.camera_files import AGAIN_CAMERA, CameraFile, camera_folders, golden_frames, open_camera
from dhox.models.engines import read_sidecar
from dhox.models.export_directory import AGAIN, Export, check_file, open_export
from dhox.models.golden import TOLERANCE, check_inputs, run_golden
from dhox.runtimes.onnxruntime_api import default_device
from dhox.runtimes.onnxruntime_session import OnnxSession

EMULATED = "the CPU provider computes much of it in fp32"
READERS: dict[str, Callable[[Export], object]] = {
    "heads.npz": Export.heads, "images.npz": Export.images, "val.npz": Export.validation, "ledger.json": Export.ledger,
    EMBEDDINGS_FILE: Export.embeddings, REHEARSAL_FILE: Export.rehearsal,
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """`what` was checked of which `file`, and what was `found`. `passed` is None where it could not run."""

    file: str
    what: str
    passed: bool | None
    found: str


def verify(export: Path, device: str = "auto") -> list[Check]:
    """Every check of an export on this machine, in order; none of them stops the others.

    `device`: auto, cpu or cuda, where the golden images run (auto: CUDA where ONNX Runtime has it). Raises DhoxError
    where there is no finished export (no manifest.json that this dhox reads).
    """
    opened = open_export(export)
    if device == "auto":
        device = default_device()
    rows: list[Check] = []
    golden: Golden | None = None
    for name, digest in opened.manifest.files.items():
        rows.append(attempt(name, "hash", partial(_hash_words, export, name, digest)))
        if not rows[-1].passed:
            continue
        try:
            if name == GOLDEN_FILE:
                found = opened.golden()
                rows += _contract_rows(opened, found)
                golden = found
            elif name in READERS:
                READERS[name](opened)
        except DhoxError as err:
            rows.append(Check(name, "content", False, str(err)))
    for entry in opened.manifest.artefacts:
        rows += _artefact_rows(opened, entry, golden, device)
    for folder in camera_folders(export):
        rows += _camera_rows(opened, folder, device)
    for sidecar in sorted((export / "engines").glob(f"*/{ENGINE_FILE}")):
        if sidecar.parent.suffix == ".partial":  # of a build that was killed
            continue
        name = sidecar.parent.relative_to(export).as_posix()
        rows.append(attempt(name, "engine", partial(_engine_words, opened, sidecar.parent)))
    return rows


def attempt(file: str, what: str, check: Callable[[], str]) -> Check:
    """A check that answers with what it found; its DhoxError becomes a row that failed."""
    try:
        return Check(file, what, True, check())
    except DhoxError as err:
        return Check(file, what, False, str(err))


def _hash_words(export: Path, name: str, digest: str) -> str:
    """A file of the export is the file that the manifest describes."""
    size = check_file(export, name, digest).stat().st_size
    return f"{size:,} bytes, SHA-256 {digest[:12]}"


def _artefact_rows(export: Export, entry: Artefact, golden: Golden | None, device: str) -> list[Check]:
    """Hash, self-description and golden outputs of one ONNX file."""
    name, precision = entry.file, entry.precision
    rows = [attempt(name, "hash", lambda: _hash_words(export.path, name, entry.sha256))]
    if not rows[0].passed:
        return rows
    rows.append(attempt(name, "metadata", lambda: _metadata_words(export, entry)))
    if golden is None:
        return [*rows, Check(name, "golden outputs", None, "not run: there is no whole golden.npz")]
    if precision not in TOLERANCE and entry.golden_agreement is None:
        return [*rows, Check(name, "golden outputs", None, f"not run: the manifest has no agreement for {precision}")]
    return [*rows, attempt(name, "golden outputs", lambda: _golden_words(export, entry, device))]


def _metadata_words(export: Export, entry: Artefact) -> str:
    """What the file says of itself equals the manifest."""
    export.model(entry)
    return f"classes, preprocessing and fold as in the manifest; opset {entry.opset}, IR {entry.ir}"


def _golden_words(export: Export, entry: Artefact, device: str) -> str:
    """The golden images through one file. Raises DhoxError beyond the tolerance, or where it cannot run."""
    agreement, precision = entry.golden_agreement, entry.precision
    session = OnnxSession(export.path / entry.file, device, precision=precision)
    result = run_golden(export, entry, session, export.tensors(entry))
    if not result.outputs_passed:
        allowed = f"{TOLERANCE[precision]:g}" if agreement is None else f"same label on {100 * agreement:.0f} %"
        raise DhoxError(
            f"{_result_words(result)} (allowed: {allowed}).",
            f"Do not ship it: compare the versions of onnxruntime here and where it was exported. {AGAIN}",
        )
    return f"{device}: {_result_words(result)}{f'; {EMULATED}' if session.facts.emulated else ''}"


def _result_words(result: GoldenResult, what: str = "images") -> str:
    difference = result.largest_difference
    largest = "not finite" if difference is None else f"{difference:.1e}"
    return (
        f"{result.n} {what}, largest difference of a probability {largest}, same label {100 * result.agreement:.1f} %"
    )


def _camera_rows(export: Export, folder: Path, device: str) -> list[Check]:
    """Hashes, self-description, preprocessing and golden frames of one camera file."""
    name = folder.relative_to(export.path).as_posix()
    try:
        opened = open_camera(export, folder)
    except DhoxError as err:
        return [Check(name, "camera file", False, str(err))]
    rows = [
        attempt(f"{name}/{opened.model.file}", "metadata", lambda: _camera_words(opened)),
        attempt(f"{name}/{FRAMES_FILE}", "preprocessing", lambda: _frames_words(opened)),
    ]
    others = [other for other in opened.model.files if other != FRAMES_FILE]
    rows += [attempt(f"{name}/{other}", "hash", partial(_beside_words, opened, other)) for other in others]
    if rows[0].passed and rows[1].passed:
        rows.append(attempt(rows[0].file, "golden frames", lambda: _golden_frames_words(opened, device)))
    return rows


def _beside_words(opened: CameraFile, name: str) -> str:
    return f"{opened.file(name).stat().st_size:,} bytes, SHA-256 {opened.model.files[name][:12]}"


def _camera_words(opened: CameraFile) -> str:
    opened.onnx()
    camera, digest = opened.camera, opened.model.sha256
    return f"{camera.size} {camera.format}, classes and preprocessing as in the manifest; SHA-256 {digest[:12]}"


def _frames_words(opened: CameraFile) -> str:
    """Pillow makes of the golden frames here what it made of them there."""
    golden, camera, preprocessing = opened.frames(), opened.camera, opened.manifest.preprocessing
    for frame, pixels in zip(golden.frames, golden.pixels, strict=True):
        if not np.array_equal(frame_input(frame.reshape(camera.shape), camera, preprocessing), pixels):
            raise DhoxError(
                "Another model input than the exporting machine's.", "Compare the versions of Pillow and numpy."
            )
    return f"{len(golden.frames)} frames, bit-equal"


def _golden_frames_words(opened: CameraFile, device: str) -> str:
    """The golden frames through a camera file. Raises DhoxError where it answers otherwise than where it was made."""
    session = OnnxSession(opened.onnx(), device, precision=opened.model.precision)
    result = golden_frames(opened, session)
    if not result.outputs_passed:
        raise DhoxError(f"{_result_words(result, 'frames')}.", f"Do not ship it. {AGAIN_CAMERA}")
    return f"{device}: {_result_words(result, 'frames')}{f'; {EMULATED}' if session.facts.emulated else ''}"


def _contract_rows(export: Export, golden: Golden) -> list[Check]:
    """This machine decodes and preprocesses as the exporting one did."""
    same, difference = check_inputs(golden, export.manifest.preprocessing)
    near = difference <= JPEG_TOLERANCE
    advice = "Compare the versions of Pillow here and where it was exported."
    equal = "bit-equal" if same else f"another model input than the exporting machine's. {advice}"
    jpeg = f"largest difference {difference} of 255 (allowed: {JPEG_TOLERANCE})"
    return [
        Check(GOLDEN_FILE, "preprocessing", same, f"{len(golden.sizes)} images, {equal}"),
        Check(GOLDEN_FILE, "JPEG decoder", near, jpeg if near else f"{jpeg}. {advice}"),
    ]


def _engine_words(export: Export, folder: Path) -> str:
    """A TensorRT engine is the file that its sidecar describes, built from an ONNX file of this export."""
    engine, path = read_sidecar(folder), folder / PLAN_FILE
    if not path.is_file() or sha256(path) != engine.engine.sha256:
        raise DhoxError(f"{path} is missing, or not the file that its sidecar describes.", "Build the engine again.")
    known = [entry.sha256 for entry in export.manifest.artefacts]
    for camera in camera_folders(export.path):
        with suppress(DhoxError):  # a damaged one has a row of its own
            known.append(open_camera(export, camera).model.sha256)
    if engine.onnx.sha256 not in known:
        raise DhoxError(f"{path} was built from an ONNX file that is not in this export.", "Build the engine again.")
    return f"SHA-256 {engine.engine.sha256[:12]}; its answers are checked where it is loaded"

"""Camera files of an export: EXPORT/cameras/NAME, each a model that takes raw frames, with camera.json beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import to_builtins

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.camera import CAMERA_FILE, FRAMES_FILE, CameraModel, GoldenFrames
from dhox.artefacts.files import check_hash
from dhox.artefacts.frame import Camera
from dhox.artefacts.golden import GoldenResult
from dhox.artefacts.manifest import Manifest, Precision
from dhox.artefacts.record import check_schema, read_head, read_record, schema_of
from dhox.data.frames import frame_input
from dhox.errors import DhoxError
from dhox.models.export_directory import AGAIN, Export, Said, check_metadata
from dhox.models.golden import TOLERANCE
from dhox.models.onnx_file import check_onnx
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensors import FRAMES, Tensors

CAMERA_SCHEMA = schema_of(CameraModel)
AGAIN_CAMERA = "Make it again: dhox export EXPORT --camera WIDTHxHEIGHT --overwrite"


@dataclass(frozen=True)
class CameraFile:
    """One camera file of an export: its folder, its sidecar, and the export's manifest."""

    folder: Path
    model: CameraModel
    manifest: Manifest

    @property
    def camera(self) -> Camera:
        """Whose frames it takes."""
        return self.model.camera

    @property
    def tensors(self) -> Tensors:
        """What it takes and gives; `graph_input` takes frames."""
        return Tensors(self.manifest.preprocessing, FRAMES)

    def onnx(self) -> Path:
        """The ONNX file, its hash and what it says of itself checked. Raises DhoxError where it is another one."""
        model, path = self.model, self.folder / self.model.file
        check_hash(path, model.sha256, CAMERA_FILE, lost=AGAIN, changed=AGAIN_CAMERA)
        camera = to_builtins(model.camera)
        check_metadata(
            check_onnx(path),
            self.manifest,
            Said(model.file, model.ir, model.opset, "uint8", model.camera.shape, camera),
        )
        return path

    def file(self, name: str) -> Path:
        """One of the files beside the model, its hash checked."""
        return check_hash(self.folder / name, self.model.files[name], CAMERA_FILE, lost=AGAIN, changed=AGAIN_CAMERA)

    def frames(self) -> GoldenFrames:
        """frames.npz, checked."""
        path, side = self.file(FRAMES_FILE), self.manifest.preprocessing.crop
        bytes_ = self.model.cost.frame_bytes
        return read_arrays(path, GoldenFrames, F=bytes_, H=side, W=side, C=len(self.manifest.classes))


def camera_folder(export: Path, camera: Camera, precision: Precision) -> Path:
    """EXPORT/cameras/NAME-PRECISION."""
    return export / "cameras" / f"{camera.name}-{precision}"


def camera_folders(export: Path) -> list[Path]:
    """The folders of an export's camera files, by name; not those of a command that was killed."""
    found = sorted(path for path in (export / "cameras").glob("*") if path.is_dir())
    return [folder for folder in found if folder.suffix != ".partial" and not folder.name.startswith(".")]


def open_camera(export: Export, folder: Path) -> CameraFile:
    """One camera file. Raises DhoxError where its sidecar is missing or damaged, or it was made from another model."""
    path = folder / CAMERA_FILE
    head = read_head(path)
    check_schema(path, head.schema, CAMERA_SCHEMA)
    if head.status != "complete":
        raise DhoxError(f"The camera file in {folder} was not finished.", f"Delete it. {AGAIN_CAMERA}")
    model = read_record(path, CameraModel)
    if model.source.sha256 not in [entry.sha256 for entry in export.manifest.artefacts]:
        raise DhoxError(f"{folder} was made from a model that is not in this export.", AGAIN_CAMERA)
    return CameraFile(folder, model, export.manifest)


def camera_files(export: Export, precision: str | None = None) -> list[CameraFile]:
    """All camera files of an export, or those of a precision. Raises DhoxError where one is damaged."""
    found = [open_camera(export, folder) for folder in camera_folders(export.path)]
    return [one for one in found if precision in (None, one.model.precision)]


def golden_frames(one: CameraFile, session: Session) -> GoldenResult:
    """The golden frames through an opened file or engine of a camera, as `check_golden` judges images.

    `input_equal`: Pillow makes of the frames here what it made of them where the file was made. A quantised file passes
    where it gives the labels that it gave there.
    """
    golden, camera, precision = one.frames(), one.camera, one.model.precision
    frames = golden.frames.reshape(-1, *camera.shape)
    seen = [frame_input(frame, camera, one.manifest.preprocessing) for frame in frames]
    probs = one.tensors.probs(session.infer(frames))
    finite = bool(np.isfinite(probs).all())
    difference = float(abs(probs - golden.probs).max()) if finite else None
    same = probs.argmax(-1) == golden.probs.argmax(-1)
    allowed = TOLERANCE.get(precision, 1.0)
    ordered = np.sort(golden.probs, axis=-1)
    decided = bool(same[ordered[:, -1] - ordered[:, -2] > (2 * allowed if precision in TOLERANCE else 0)].all())
    right = difference is not None and difference <= allowed and decided
    return GoldenResult(
        n=len(frames), input_equal=bool(np.array_equal(seen, golden.pixels)), jpeg_difference=0,
        largest_difference=difference, decided_argmax_equal=decided, agreement=float(same.mean()),
        outputs_passed=right, passed=right and bool(np.array_equal(seen, golden.pixels)),
    )  # fmt: skip

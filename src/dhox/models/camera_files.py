"""Camera files of an export: EXPORT/cameras/NAME, each a model that takes raw frames, with camera.json beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec import to_builtins

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.camera import CAMERA_FILE, FRAMES_FILE, CameraModel, GoldenFrames
from dhox.artefacts.files import check_hash
from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import Manifest, Precision
from dhox.artefacts.record import check_schema, read_head, read_record, schema_of
from dhox.errors import DhoxError
from dhox.models.export_directory import AGAIN, Export, Said, check_metadata
from dhox.models.onnx_file import check_onnx
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

    def frames(self) -> GoldenFrames:
        """frames.npz, checked."""
        path, side = self.folder / FRAMES_FILE, self.manifest.preprocessing.crop
        check_hash(path, self.model.files[FRAMES_FILE], CAMERA_FILE, lost=AGAIN, changed=AGAIN_CAMERA)
        bytes_ = self.model.cost.frame_bytes
        return read_arrays(path, GoldenFrames, F=bytes_, H=side, W=side, C=len(self.manifest.classes))


def camera_folder(export: Path, camera: Camera, precision: Precision) -> Path:
    """EXPORT/cameras/NAME-PRECISION."""
    return export / "cameras" / f"{camera.name}-{precision}"


def camera_folders(export: Path) -> list[Path]:
    """The folders of an export's camera files, by name; not those of a command that was killed."""
    found = sorted(path.parent for path in (export / "cameras").glob(f"*/{CAMERA_FILE}"))
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

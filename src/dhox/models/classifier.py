"""An export as a function of images: `dhox.load`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from dhox.artefacts.frame import Camera
from dhox.artefacts.golden import JPEG_TOLERANCE
from dhox.data.frames import check_frames
from dhox.data.items import Item
from dhox.errors import DhoxError, GateFailedError
from dhox.models.camera_files import CameraFile, camera_folder, camera_folders, open_camera
from dhox.models.engines import find_engine, open_engine
from dhox.models.export_directory import Export, open_export
from dhox.models.golden import check_inputs
from dhox.predicting.answers import answers
from dhox.predicting.picture import Prediction
from dhox.predicting.sources import Reading, find_source, given
from dhox.runtimes.cuda import gpu
from dhox.runtimes.onnxruntime_api import default_device
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import ImageLike, predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensorrt_api import import_tensorrt


class ExportedModel:
    """A loaded export: call it with images to get class probabilities. Threads take turns.

    `classes`: names in index order. `preprocessing`: what happens before the graph. `reject_threshold`: the top
    probability below which the answer is "unknown"; None where the export has none (--reject-coverage). `file_id`: the
    model's file and the beginning of its SHA-256. `notes`: what the frames of cameras cost, in sentences.
    """

    def __init__(self, export: Export, device: str, precision: str | None, trust_engine: bool = False) -> None:
        self.session: Session
        self.lock = Lock()
        self.path, self.export, self.notes = export.path, export, list[str]()
        self.device, self.trust_engine = device, trust_engine
        self.frame_sessions: dict[Camera, tuple[CameraFile, Session]] = {}
        if device == "tensorrt":
            self.session = open_engine(export, precision, trust_engine)
            self.entry = export.entry(self.session.facts.precision_asked)
        else:
            self.entry = export.entry(precision)
            # Threads that wait busily would take the cores that decode the next images.
            model = export.model(self.entry)
            self.session = OnnxSession(model, device, precision=self.entry.precision, spinning=False)
        manifest = export.manifest
        same, difference = check_inputs(export.golden(), manifest.preprocessing)
        if not same or difference > JPEG_TOLERANCE:
            self.session.close()
            what = "JPEG decoder" if same else "preprocessing"
            raise GateFailedError(
                f"{export.path}: the {what} here does not give the model the input that it was exported with.",
                "Compare Pillow's versions here and there; dhox verify says more.",
            )
        self.classes = manifest.names
        self.reject_threshold = manifest.reject.threshold if manifest.reject else None
        self.preprocessing = manifest.preprocessing
        self.tensors = export.tensors(self.entry)
        self.file_id = f"{self.entry.file} {self.entry.sha256[:12]}{' tensorrt' * (device == 'tensorrt')}"

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Probabilities float32 [N, C] of one image or several: paths, encoded images, PIL images, or uint8 RGB arrays
        [H, W, 3]."""
        batch = [images] if isinstance(images, (str, Path, bytes, Image.Image, np.ndarray, Item)) else list(images)
        if not batch:
            return np.zeros((0, len(self.classes)), np.float32)
        return self.probs_of(batch)

    def stream(
        self, *sources: str | Path | Iterable[ImageLike], every: int = 1, smooth: int = 1, timeout_s: float = 10.0
    ) -> Iterator[Prediction]:
        """Predictions of any number of images, one after the other, while others are decoded on all cores.

        `sources`: files, folders, patterns, manifests, videos, `camera:0`, `rtsp://...`, as `dhox predict` takes them;
        or any iterable of images. `every`: of a video, every N-th frame; `smooth`: the mean of the probabilities over
        the last so many of them; `timeout_s`: how long a stream may send nothing. An image that cannot be read has
        `probs` None and an `error`. Raises DhoxError for a source that is none.
        """
        reading = Reading(frozenset(self.classes), every, timeout_s)
        found = [find_source(str(of), reading) if isinstance(of, (str, Path)) else given(of) for of in sources]
        return (prediction for batch in answers(self, found, smooth) for prediction in batch)

    def probs_of(self, images: np.ndarray | Sequence[ImageLike], least: int = 1) -> np.ndarray:
        """Probabilities float32 [N, C] of at least one image, or of pixels uint8 [N, crop, crop, 3] as `preprocessing`
        makes them; a graph gets `least` of them at a time, the first ones again where they are fewer."""
        n = len(images)
        if isinstance(images, np.ndarray) and n < least:
            images = np.resize(images, (least, *images.shape[1:]))
        with self.lock:
            probs = predict(self.session, self.tensors, images)[:n]
        return self._finite(probs, self.entry.file)

    def probs_and_embeddings(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities float32 [N, C] and embeddings float32 [N, D] of pixels uint8 [N, crop, crop, 3], a batch; None
        where the export has no embedding. On `cpu` and `cuda`."""
        if self.export.manifest.embedding is None or not isinstance(self.session, OnnxSession):
            return self.probs_of(pixels), None
        with self.lock:
            probs, embeddings = self.session.infer_all(self.tensors.graph_input(pixels))
        return self._finite(probs, self.entry.file), self._finite(embeddings, self.entry.file)

    def cameras(self) -> list[Camera]:
        """Whose raw frames `frame_probs` takes: of the whole camera files in the precision of this model, the newest
        first; on TensorRT of those that have an engine here. `dhox verify` names damaged ones."""
        found = []
        for folder in camera_folders(self.path):
            with suppress(DhoxError):
                one = open_camera(self.export, folder)
                if one.model.precision == self.entry.precision:
                    if self.device == "tensorrt":
                        find_engine(self.export, self.entry.precision, import_tensorrt(), gpu(), one)
                    found.append(one)
        return [one.camera for one in sorted(found, key=lambda one: one.model.finished_at, reverse=True)]

    def open_frames(self, camera: Camera) -> str:
        """Open the camera file of a camera, if it is not yet; its name.

        Raises DhoxError where the export has no such file, or (on TensorRT) no engine of it.
        """
        with self.lock:
            if camera not in self.frame_sessions:
                one = open_camera(self.export, camera_folder(self.path, camera, self.entry.precision))
                if one.camera != camera:
                    raise DhoxError(f"{one.folder} is for another camera.", "Give the folder its own name again.")
                self.frame_sessions[camera] = (one, self._frame_session(one))
            return self.frame_sessions[camera][0].model.file

    def frame_probs(self, frames: np.ndarray, camera: Camera) -> np.ndarray:
        """Probabilities float32 [N, C] of raw frames uint8 [N, *camera.shape].

        Raises DhoxError for frames of another shape, and as `open_frames`.
        """
        check_frames(frames, camera)
        file = self.open_frames(camera)
        one, session = self.frame_sessions[camera]
        with self.lock:
            return self._finite(one.tensors.probs(session.infer(frames)), file)

    def _finite(self, probs: np.ndarray, file: str) -> np.ndarray:
        """The same. Raises DhoxError where they are no numbers."""
        if not np.isfinite(probs).all():
            raise DhoxError(
                f"{file} answers with values that are no numbers.",
                "Check the export with dhox verify, and copy or export it again.",
            )
        return probs

    def _frame_session(self, one: CameraFile) -> Session:
        if self.device == "tensorrt":
            return open_engine(self.export, self.entry.precision, self.trust_engine, camera=one)
        return OnnxSession(one.onnx(), self.device, precision=self.entry.precision, spinning=False)


def load(
    export: str | Path, device: str = "auto", precision: str | None = None, trust_engine: bool = False
) -> ExportedModel:
    """Load an export directory for inference with ONNX Runtime, or with TensorRT; no torch needed.

    `device`: auto, cpu, cuda or tensorrt (the newest engine that fits this machine). `precision`: fp32, fp16 or int8;
    by default the export's own choice on CUDA, fp32 on the CPU, whose provider only emulates fp16, and that of the
    engine on TensorRT. `trust_engine`: load an engine that this user did not build here; it can run any code. Raises
    DhoxError for a damaged or unfinished export, or where no engine fits, and GateFailedError where images become
    another input here than where the export was made.
    """
    opened = open_export(Path(export))
    if device == "auto":
        device = default_device()
    if device not in {"cpu", "cuda", "tensorrt"}:
        raise DhoxError(f"The device {device!r} is unknown.", "Use auto, cpu, cuda or tensorrt.")
    if precision is None and device == "cpu":
        precision = "fp32"
    return ExportedModel(opened, device, precision, trust_engine)

"""Camera files in a bench, each beside the ordinary file behind Pillow and behind OpenCV, from the same raw frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from dhox.artefacts.bench import CameraWay
from dhox.artefacts.bench_latency import ScopeName
from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera
from dhox.bench.bench_models import BenchModel
from dhox.data.frames import frame_input, region_of
from dhox.data.images import model_input, placed
from dhox.errors import UsageError, require
from dhox.models.camera_files import CameraFile, camera_files
from dhox.models.export_directory import Export
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensors import FRAMES, Tensors

METHOD = (
    "Scope camera: the same raw frames (frames.npz of the camera file) in every way. Behind Pillow and behind OpenCV, "
    "OpenCV converts nv12 and yuyv to RGB, as BT.601 of the limited range whatever the camera says; it may use "
    "several threads, Pillow uses one. OpenCV resizes by INTER_AREA where the picture shrinks, else by INTER_LINEAR: "
    "not the contract's kernel, so its answers differ"
)
NO_ACCURACY = "camera.json of the file holds its ledger row; its golden frames are checked here"
YUV_TO_RGB = {"nv12": "COLOR_YUV2RGB_NV12", "yuyv": "COLOR_YUV2RGB_YUY2"}


def with_cameras(models: list[BenchModel], asked: tuple[ScopeName, ...] | None) -> list[BenchModel]:
    """The models, and three for every camera file of theirs: behind Pillow, in the graph, behind OpenCV.

    `asked`: the scopes of --scope; None: all that there are. Raises UsageError where `camera` was asked for and no
    model has a camera file, DhoxError for a damaged one.
    """
    if asked is not None and "camera" not in asked:
        return models
    more = [(model.name, one) for model in models for one in _ways_of(model)]
    if asked is not None and not more:
        raise UsageError(
            "--scope camera measures camera files, and no model here has one.",
            "Make one: dhox export EXPORT --camera WIDTHxHEIGHT. Or leave the scope out.",
        )
    once = len({one.name for _, one in more}) == len(more)
    return [*models, *(one if once else replace(one, name=f"{name} {one.name}") for name, one in more)]


def _ways_of(model: BenchModel) -> Iterable[BenchModel]:
    """Of one artefact of an export, for each of its camera files: the three ways from a frame to probabilities."""
    if model.export is None or model.manifest is None:
        return
    for file in camera_files(Export(model.export, model.manifest), model.precision):
        name = f"camera-{file.folder.name}"

        def way(kind: str, file: CameraFile = file) -> CameraWay:
            return CameraWay(file.camera.name, kind, file.camera)  # type: ignore[arg-type]

        yield replace(model, name=f"{name} behind Pillow", camera=way("Pillow"), camera_file=file)
        yield replace(
            model, name=name, file=file.onnx(), sha256=file.model.sha256, bytes=file.model.bytes, input_kind=FRAMES,
            input_name=file.tensors.input, output_name=file.tensors.output, input_dtype="uint8",
            camera=way("graph"), camera_file=file,
        )  # fmt: skip
        yield replace(model, name=f"{name} behind OpenCV", camera=way("OpenCV"), camera_file=file)


def timed_scopes(models: list[BenchModel], asked: tuple[ScopeName, ...] | None) -> tuple[ScopeName, ...]:
    """The scopes that are timed: those asked for, else all but `camera` where no model has a camera."""
    if asked is not None:
        return asked
    camera: tuple[ScopeName, ...] = ("camera",) if any(model.camera for model in models) else ()
    return ("device", "e2e", "pipeline", *camera)


def camera_groups(models: list[BenchModel]) -> dict[str, str]:
    """By the name of a model: camera, precision and export, within which ways compare."""
    return {one.name: f"{one.export} {one.camera.name} {one.precision}" for one in models if one.camera is not None}


def camera_call(model: BenchModel, runner: Session, batch: int) -> Callable[[], object]:
    """One synchronised call from a batch of raw frames in host memory to probabilities there."""
    assert model.camera is not None
    assert model.camera_file is not None
    camera, tensors, taken = model.camera.camera, model.tensors, model.preprocessing
    golden = model.camera_file.frames().frames.reshape(-1, *camera.shape)
    frames = np.ascontiguousarray(golden[np.arange(batch) % len(golden)])
    prepared = _prepared(model.camera.way, camera, taken)

    def call() -> np.ndarray:
        return tensors.probs(runner.infer(frames if prepared is None else _input(prepared, frames, tensors)))

    call()
    return call


def _input(prepared: Callable[[np.ndarray], np.ndarray], frames: np.ndarray, tensors: Tensors) -> np.ndarray:
    return tensors.graph_input(np.stack([prepared(frame) for frame in frames]))


def _prepared(way: str, camera: Camera, taken: Preprocessing) -> Callable[[np.ndarray], np.ndarray] | None:
    """A frame to the model's input in one of the ways; None where the graph does that."""
    if way == "graph":
        return None
    if way == "OpenCV":
        require("cv2", "camera")
        return lambda frame: opencv_input(frame, camera, taken)
    if not camera.yuv:
        return lambda frame: frame_input(frame, camera, taken)
    require("cv2", "camera")
    return lambda frame: pillow_input(frame, camera, taken)


def rgb(frame: np.ndarray, camera: Camera) -> np.ndarray:
    """A frame as RGB [H, W, 3] by OpenCV."""
    import cv2

    if camera.format == "rgb":
        return frame
    names = {**YUV_TO_RGB, "bgr": "COLOR_BGR2RGB", "gray": "COLOR_GRAY2RGB"}
    return np.asarray(cv2.cvtColor(frame, getattr(cv2, names[camera.format])))


def pillow_input(frame: np.ndarray, camera: Camera, taken: Preprocessing) -> np.ndarray:
    """A frame as the model's input, uint8 [crop, crop, 3]: colours by OpenCV, all else by Pillow."""
    return model_input(region_of(Image.fromarray(rgb(frame, camera)), camera), taken)


def opencv_input(frame: np.ndarray, camera: Camera, taken: Preprocessing) -> np.ndarray:
    """A frame as a model's input, uint8 [crop, crop, 3], by OpenCV alone: near the contract's, and not equal to it."""
    import cv2

    turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    image = rgb(frame, camera)
    if camera.rotate:
        image = np.asarray(cv2.rotate(image, turns[camera.rotate]))
    roi = camera.region
    image = image[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
    size, left, top = placed((roi.width, roi.height), taken)
    kernel = cv2.INTER_AREA if size[0] < roi.width else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image, size, interpolation=kernel))
    return small[top : top + taken.crop, left : left + taken.crop]

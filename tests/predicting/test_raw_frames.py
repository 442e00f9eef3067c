"""A camera's frames go raw into the camera file that fits them; where none does, it is said what that costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from refusals import refuses
from small_videos import camera

import dhox
from dhox.artefacts.frame import Camera
from dhox.data.frames import filmed
from dhox.export.camera.run import add_cameras
from dhox.predicting.raw_frames import camera_of, delivered, fits, raw_frame

DHOX = str(Path(sys.executable).with_name("dhox"))
NV12 = Camera(64, 48, "nv12", "bt601", "full")


@pytest.fixture
def export(line: Path, tmp_path: Path) -> Path:
    shutil.copytree(line / "runs/tiny/export", tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def photographs(line: Path) -> list[np.ndarray]:
    paths = [sorted((line / "data/test" / name).iterdir())[0] for name in ("bag", "dress", "sandal", "trousers")]
    return [np.asarray(Image.open(path).convert("RGB").resize((64, 48))) for path in paths]


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize(
    ("kind", "name"), [("rgb", "rgb24"), ("bgr", "bgr24"), ("gray", "gray"), ("nv12", "nv12"), ("yuyv", "yuyv422")]
)
def test_frames_arrive_as_they_were_sent(kind: Any, name: str) -> None:
    colours = {"colour": "bt601", "range": "limited"} if kind in ("nv12", "yuyv") else {}
    wanted = Camera(32, 16, kind, **colours)  # type: ignore[arg-type]
    sent = filmed(noise((32, 16)), wanted)
    given = av.VideoFrame.from_ndarray(sent, format=name)
    assert delivered(given) == f"32x16 {name}"
    found = raw_frame(given, [Camera(32, 18, kind, **colours), wanted])  # type: ignore[arg-type]
    assert found is not None
    assert found[1] == wanted
    assert np.array_equal(found[0], sent)


def test_planes_of_chroma_are_interleaved() -> None:
    wanted = Camera(32, 16, "nv12", "bt601", "limited")
    sent = filmed(noise((32, 16)), wanted)
    planes = np.concatenate([sent[:16], sent[16:].reshape(8, 16, 2).transpose(2, 0, 1).reshape(8, 32)])
    found = raw_frame(av.VideoFrame.from_ndarray(planes, format="yuv420p"), [wanted])
    assert found is not None
    assert np.array_equal(found[0], sent)


def test_what_contradicts_a_camera_does_not_fit_it() -> None:
    wanted = Camera(32, 16, "nv12", "bt601", "limited")
    frame = av.VideoFrame.from_ndarray(filmed(noise((32, 16)), wanted), format="nv12")
    assert fits(frame, wanted)
    frame.color_range = 2
    assert not fits(frame, wanted)
    assert fits(frame, Camera(32, 16, "nv12", "bt601", "full"))
    frame.color_range, frame.colorspace = 1, 1
    assert not fits(frame, wanted)
    assert fits(frame, Camera(32, 16, "nv12", "bt709", "limited"))
    assert not fits(frame, Camera(16, 32, "nv12", "bt709", "limited"))
    assert raw_frame(frame, [wanted]) is None


def test_a_stream_goes_raw_into_the_file_that_fits(export: Path, photographs: list[np.ndarray]) -> None:
    add_cameras(export, [NV12, Camera(32, 24, "nv12", "bt601", "full")], ("fp32",))
    model = dhox.load(export, precision="fp32")
    with camera(iter(photographs * 3), 0.05) as address:
        found = [one for one in model.stream(address, timeout_s=1.5) if one.probs is not None]
    assert len(found) > 4
    assert all(one.picture.camera == NV12 for one in found)
    assert "raw into model.camera-64x48-nv12.fp32.onnx" in model.notes[0]
    expected = model(photographs)[np.array([one.picture.frame or 0 for one in found]) % 4]
    assert abs(np.stack([one.probs for one in found]) - expected).max() < 0.1


def test_without_one_the_cost_and_the_command_are_named(export: Path, photographs: list[np.ndarray]) -> None:
    line = [DHOX, "predict", str(export), "--timeout", "1.5"]
    with camera(iter(photographs * 2), 0.05) as address:
        done = subprocess.run([*line, address], capture_output=True, text=True, timeout=120)
    said = " ".join(done.stdout.split())
    assert "64x48 yuvj420p, resized by Pillow" in said
    command = f"dhox export {export} --camera 64x48 --camera-format nv12 --camera-colour bt601 --camera-range full --precision fp32"
    assert command in said
    assert subprocess.run([DHOX, *command.split()[1:]], capture_output=True).returncode == 0
    with camera(iter(photographs * 2), 0.05) as address:
        done = subprocess.run([*line, address], capture_output=True, text=True, timeout=120)
    assert "raw into model.camera-64x48-nv12.fp32.onnx" in " ".join(done.stdout.split())


def test_frames_of_another_shape_are_refused(export: Path) -> None:
    add_cameras(export, [NV12], ("fp32",))
    with refuses("[48, 64, 3]", "[72, 64]", at="data.frames.check_frames"):
        dhox.load(export, "cpu", "fp32").frame_probs(np.zeros((1, 48, 64, 3), np.uint8), NV12)


def test_the_advised_camera_fits_the_frame_that_it_is_advised_for() -> None:
    sent = filmed(noise((32, 16)), Camera(32, 16, "nv12", "bt601", "limited"))
    for space in (1, 2, 5, 6):
        for range_ in (0, 1, 2):
            frame = av.VideoFrame.from_ndarray(sent, format="nv12")
            frame.colorspace, frame.color_range = space, range_
            advised = camera_of(frame)
            assert advised is not None
            assert fits(frame, advised)
    frame.colorspace = 9  # BT.2020
    assert camera_of(frame) is None
    assert not fits(frame, Camera(32, 16, "nv12", "bt601", "full"))
    odd = av.VideoFrame(33, 16, "yuv420p")
    assert camera_of(odd) is None


def test_a_damaged_camera_file_stops_no_prediction(export: Path) -> None:
    add_cameras(export, [NV12, Camera(32, 24, "nv12", "bt601", "full")], ("fp32",))
    (export / "cameras/32x24-nv12-full-fp32/camera.json").write_text("{")
    assert dhox.load(export, "cpu", "fp32").cameras() == [NV12]

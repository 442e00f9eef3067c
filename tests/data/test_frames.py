"""Frames as pictures: right values by hand, both ways, and FFmpeg's conversion as a second opinion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from dhox.artefacts.frame import Camera, Roi
from dhox.data.frames import check_frames, filmed, picture

LIMITED = {"colour": "bt601", "range": "limited"}


@pytest.mark.parametrize(
    ("colour", "range_", "yuv", "rgb"),
    [
        ("bt601", "limited", (16, 128, 128), (0, 0, 0)),
        ("bt601", "limited", (235, 128, 128), (255, 255, 255)),
        ("bt601", "limited", (81, 90, 240), (254, 0, 0)),  # BT.601 red
        ("bt709", "limited", (63, 102, 240), (255, 1, 0)),  # BT.709 red
        ("bt601", "full", (76, 85, 255), (254, 0, 0)),
        ("bt709", "full", (255, 128, 128), (255, 255, 255)),
        ("bt709", "full", (18, 255, 116), (0, 0, 254)),
    ],
)
def test_known_colours(colour: Any, range_: Any, yuv: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    y, u, v = yuv
    nv12 = np.array([[y, y], [y, y], [u, v]], np.uint8)
    yuyv = np.array([[[y, u], [y, v]]], np.uint8)
    for camera, frame in ((Camera(2, 2, "nv12", colour, range_), nv12), (Camera(2, 1, "yuyv", colour, range_), yuyv)):
        assert abs(np.asarray(picture(frame, camera)).astype(int) - rgb).max() <= 1


def test_layouts_by_hand() -> None:
    red, blue = (200, 10, 30), (5, 60, 210)
    colours = np.array([[red, blue]], np.uint8)
    assert np.array_equal(picture(colours, Camera(2, 1)), colours)
    assert np.array_equal(picture(colours[..., ::-1], Camera(2, 1, "bgr")), colours)
    assert np.array_equal(picture(np.array([[7, 9]], np.uint8), Camera(2, 1, "gray")), [[[7] * 3, [9] * 3]])
    assert np.array_equal(picture(colours, Camera(2, 1, rotate=90)), [[red], [blue]])  # clockwise: left becomes top
    assert np.array_equal(picture(colours, Camera(2, 1, rotate=180)), [[blue, red]])
    assert np.array_equal(picture(colours, Camera(2, 1, rotate=270)), [[blue], [red]])
    assert np.array_equal(picture(colours, Camera(2, 1, rotate=90, roi=Roi(0, 1, 1, 1))), [[blue]])


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("kind", ["rgb", "bgr", "gray", "nv12", "yuyv"])
def test_a_filmed_picture_is_seen_again(kind: Any, rotate: Any) -> None:
    camera = Camera(64, 48, kind, rotate=rotate, **(LIMITED if kind in ("nv12", "yuyv") else {}))  # type: ignore[arg-type]
    grid = np.random.default_rng(0).integers(60, 200, (4, 6, 3), np.uint8)
    image = Image.fromarray(grid).resize(camera.upright, Image.Resampling.BICUBIC)
    frame = filmed(image, camera)
    assert frame.shape == camera.shape
    again = np.asarray(picture(frame, camera)).astype(int)
    if kind == "gray":
        assert np.array_equal(again[..., 0], image.convert("L"))
    else:
        allowed = 0 if kind in ("rgb", "bgr") else 5  # neighbours share their chroma
        assert abs(again - np.asarray(image).astype(int)).mean() <= allowed


@pytest.mark.parametrize(("kind", "format_"), [("nv12", "nv12"), ("yuyv", "yuyv422")])
@pytest.mark.parametrize(("colour", "space"), [("bt601", "ITU601"), ("bt709", "ITU709")])
@pytest.mark.parametrize(("range_", "theirs"), [("limited", "MPEG"), ("full", "JPEG")])
def test_ffmpeg_sees_the_same_colours(
    kind: Any, format_: str, colour: Any, space: str, range_: Any, theirs: str
) -> None:
    """swscale rounds its coefficients and interpolates chroma: a second opinion, not the reference."""
    av = pytest.importorskip("av")
    camera = Camera(96, 64, kind, colour, range_)
    grid = np.random.default_rng(1).integers(60, 200, (4, 6, 3), np.uint8)
    frame = filmed(Image.fromarray(grid).resize((96, 64), Image.Resampling.BICUBIC), camera)
    video = av.VideoFrame.from_ndarray(frame, format=format_)
    reformatter = av.video.reformatter
    video.color_range = getattr(reformatter.ColorRange, theirs)

    def apart(name: str) -> float:
        rgb = video.reformat(format="rgb24", src_colorspace=getattr(reformatter.Colorspace, name)).to_ndarray()
        return float(abs(rgb.astype(int) - np.asarray(picture(frame, camera)).astype(int)).mean())

    other = "ITU709" if space == "ITU601" else "ITU601"
    assert apart(space) < 2.5 < apart(other)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 3, "height": 2, "format": "nv12", **LIMITED}, "odd side"),
        ({"width": 2, "height": 3, "format": "nv12", **LIMITED}, "odd side"),
        ({"width": 3, "height": 2, "format": "yuyv", **LIMITED}, "odd width"),
        ({"width": 4, "height": 4, "format": "nv12"}, "colour"),
        ({"width": 4, "height": 4, **LIMITED}, "colour"),
        ({"width": 4, "height": 6, "rotate": 90, "roi": Roi(3, 0, 4, 4)}, "6x4"),
    ],
)
def test_cameras_that_cannot_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Camera(**fields)


def test_cameras_that_can_be() -> None:
    assert Camera(2, 3, "yuyv", "bt601", "limited").wrong is None
    assert Camera(4, 6, rotate=90, roi=Roi(2, 0, 4, 4)).region.width == 4


def test_a_frame_of_another_size_is_named_with_both() -> None:
    camera = Camera(4, 2, "nv12", "bt601", "limited")
    check_frames(np.zeros((1, 3, 4), np.uint8), camera)
    with refuses("[2, 4, 3]", "[3, 4]", at="data.frames.check_frames"):
        check_frames(np.zeros((1, 2, 4, 3), np.uint8), camera)

"""Videos, cameras and streams as sources: every frame in its place, upright, and what goes wrong is said."""

from __future__ import annotations

import threading
from itertools import chain, cycle, repeat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refuses
from small_videos import RATE, camera, turned, write_video

import dhox
from dhox.models.classifier import ExportedModel
from dhox.predicting.sources import Reading, find_source

READING = Reading(frozenset(), timeout_s=1.5)


@pytest.fixture(scope="module")
def model(line: Path) -> ExportedModel:
    return dhox.load(line / "runs/tiny/export")


@pytest.fixture(scope="module")
def photographs(line: Path) -> list[np.ndarray]:
    """12 images, 3 of each class, large enough for a codec."""
    paths = [
        path
        for name in ("bag", "dress", "sandal", "trousers")
        for path in sorted((line / "data/test" / name).iterdir())[:3]
    ]
    return [np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths]


def test_every_frame_is_answered_as_the_image_that_it_is(model: ExportedModel, photographs: list[np.ndarray]) -> None:
    video = write_video(Path("clip.mp4"), photographs)
    found = list(model.stream(video))
    assert [one.picture.frame for one in found] == list(range(12))
    assert [one.picture.seconds for one in found] == pytest.approx([frame / RATE for frame in range(12)])
    assert abs(np.stack([one.probs for one in found]) - model(photographs)).max() < 0.05
    assert [one.picture.frame for one in model.stream(video, every=5)] == [0, 5, 10]
    assert find_source(str(video), READING).count == 12
    assert find_source(str(video), Reading(frozenset(), every=5)).count == 3


def test_smoothing_is_the_mean_of_the_last_frames(model: ExportedModel, photographs: list[np.ndarray]) -> None:
    one, other = write_video(Path("a.mp4"), photographs[:6]), write_video(Path("b.mp4"), photographs[6:])
    plain = [np.stack([of.probs for of in model.stream(video)]) for video in (one, other)]
    smooth = np.stack([of.probs for of in model.stream(one, other, smooth=3)])
    for start, probs in ((0, plain[0]), (6, plain[1])):  # a video does not begin with the end of another
        for frame in range(6):
            assert smooth[start + frame] == pytest.approx(probs[max(0, frame - 2) : frame + 1].mean(0), abs=1e-6)


def test_a_telephone_s_video_is_upright(model: ExportedModel) -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32, :48] = (250, 10, 10)  # red stands at the upper left, and after a clockwise turn at the upper right
    video = turned(write_video(Path("phone.mp4"), [frame] * 3))
    image = np.asarray(next(iter(model.stream(video))).picture.image)
    assert image.shape == (96, 64, 3)
    assert image[:40, 40:].mean((0, 1)) == pytest.approx([250, 10, 10], abs=12)
    assert image[:40, :24].max() < 30
    assert image[56:].max() < 30


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("v.mkv", "libx264", "yuv444p"), ("v.mjpeg", "mjpeg", "yuvj444p"), ("v.avi", "mpeg4", "yuv420p")],
)
def test_a_video_that_was_cut_off_says_so_and_keeps_its_frames(
    name: str, codec: str, pixels: str, model: ExportedModel, photographs: list[np.ndarray]
) -> None:
    whole = write_video(Path(name), photographs * 5, codec, pixels)
    found = list(model.stream(whole))
    assert [one.error for one in found] == [None] * 60
    content = whole.read_bytes()
    Path(f"cut-{name}").write_bytes(content[: len(content) // 2])
    cut = list(model.stream(f"cut-{name}"))
    assert 10 <= len(cut) < 50
    assert cut[-1].probs is None
    assert "it ends after" in str(cut[-1].error) or "damaged" in str(cut[-1].error)
    good = [one.probs for one in cut if one.probs is not None]
    assert np.stack(good[:7]) == pytest.approx(np.stack([one.probs for one in found[:7]]))


def test_what_is_no_video_is_refused_before_anything_runs(line: Path) -> None:
    Path("no.mp4").write_bytes(b"this is no video" * 100)
    with refuses("no.mp4", at="predicting.video.opened_video"):
        find_source("no.mp4", READING)
    with refuses("camera:7", "/dev/video7", at="predicting.sources.camera_or_stream"):
        find_source("camera:7", READING)
    with refuses("gopher", at="predicting.sources.camera_or_stream", fix="rtsp"):
        find_source("gopher://camera/1", READING)


def test_a_camera_is_answered_while_it_runs(model: ExportedModel, photographs: list[np.ndarray]) -> None:
    with camera(iter(photographs * 2), pause_s=0.05) as address:
        found = list(model.stream(address, timeout_s=1.5))
    good = [one for one in found if one.probs is not None]
    assert len(good) > 5
    assert all(one.latency_ms is not None and one.latency_ms > 0 for one in good)
    numbers = [one.picture.frame or 0 for one in good]
    assert numbers == sorted(set(numbers))
    probs = model(photographs)
    assert abs(np.stack([one.probs for one in good]) - probs[np.array(numbers) % 12]).max() < 0.1


def test_two_cameras_are_watched_together(model: ExportedModel, photographs: list[np.ndarray]) -> None:
    with camera(iter(photographs), pause_s=0.1) as one, camera(iter(photographs), pause_s=0.1) as other:
        names = [of.picture.name for of in model.stream(one, other, timeout_s=1.5) if of.probs is not None]
    assert {one, other} == set(names)
    assert names != sorted(names)  # neither waits for the other's end


def test_a_stream_that_stalls_names_the_time_out(model: ExportedModel, photographs: list[np.ndarray]) -> None:
    released = threading.Event()
    with camera(iter(photographs), 0.02, at_end=lambda: released.wait(20) and None) as address:
        found = list(model.stream(address, timeout_s=0.7))
    released.set()
    assert "0.7 s" in str(found[-1].error)
    assert sum(one.probs is not None for one in found) > 0


def test_a_camera_that_nobody_plugged_in_is_an_answer_with_an_error(model: ExportedModel) -> None:
    found = list(model.stream("http://127.0.0.1:9/video", timeout_s=1.0))
    assert [one.probs for one in found] == [None]
    assert "127.0.0.1" in str(found[0].error)


def test_a_slow_model_drops_frames_instead_of_falling_behind(
    model: ExportedModel, photographs: list[np.ndarray]
) -> None:
    endless = chain.from_iterable(repeat(photographs))
    with camera(cycle(endless), pause_s=0.01) as address:
        stream = model.stream(address, timeout_s=1.5)
        numbers = []
        for one in stream:
            numbers.append(one.picture.frame or 0)
            threading.Event().wait(0.2)
            if len(numbers) == 4:
                break
        stream.close()  # type: ignore[attr-defined]
    assert np.diff(numbers).min() > 3

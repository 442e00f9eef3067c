"""Frames of videos, cameras and streams, by PyAV (FFmpeg's libraries)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import Any

import numpy as np

from dhox.artefacts.frame import Camera
from dhox.errors import DhoxError, require
from dhox.predicting.picture import Picture
from dhox.predicting.raw_frames import camera_of, delivered, raw_frame

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ogv", ".mjpeg", ".mjpg", ".y4m", ".h264", ".h265", ".hevc",
})  # fmt: skip
RTSP = {"rtsp_transport": "tcp"}  # UDP loses packets, and with them parts of frames


@contextmanager
def opened_video(address: str, format: str | None, timeout_s: float) -> Iterator[tuple[Any, Any]]:
    """(container, its first video stream). Raises DhoxError for what is no video, or does not answer in time."""
    av = require("av", "video")
    options = RTSP if address.startswith("rtsp") else {}
    try:
        container = av.open(address, format=format, options=options, timeout=timeout_s)
    except (av.error.FFmpegError, OSError) as err:
        raise DhoxError(f"{address} cannot be opened as a video ({reason_of(err, timeout_s)}).", "Check it.") from err
    with container:
        if not container.streams.video:
            raise DhoxError(f"{address} holds no video, but {len(container.streams)} other streams.", "Check the path.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def reason_of(err: Exception, timeout_s: float) -> str:
    """What FFmpeg says of a failure, in words."""
    av = require("av", "video")
    if isinstance(err, (av.error.ExitError, av.error.TimeoutError, TimeoutError)):
        return f"it sent nothing for {timeout_s:g} s, the time-out"
    return getattr(err, "strerror", None) or str(err) or type(err).__name__


def count_frames(address: str, every: int, timeout_s: float) -> int | None:
    """How many frames `frames` gives, where the video says how many it has. Raises DhoxError for what is no video."""
    with opened_video(address, None, timeout_s) as (_, stream):
        return -(-stream.frames // every) or None


def frames(
    address: str, every: int, timeout_s: float, format: str | None = None, cameras: Sequence[Camera] = ()
) -> Iterator[Picture]:
    """Every `every`-th frame, upright RGB, or raw for one of `cameras`; a damaged one, and the end before the end, as
    pictures with an error."""
    av = require("av", "video")
    number, seconds = -1, None
    try:
        with opened_video(address, format, timeout_s) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                seconds = frame.time
                if number % every:
                    continue
                if frame.is_corrupt:
                    yield Picture(address, None, frame=number, error="a damaged frame")
                else:
                    image, camera = raw_frame(frame, cameras) or (upright(frame), None)
                    yield Picture(
                        address,
                        image,
                        None,
                        number,
                        seconds,
                        delivered=delivered(frame),
                        camera=camera,
                        shown=camera_of(frame),
                    )
            if cut := cut_short(container, stream, number + 1, seconds):
                yield Picture(address, None, frame=number + 1, error=cut)
    except (av.error.FFmpegError, OSError) as err:
        yield Picture(
            address, None, frame=number + 1, error=f"it ends after {number + 1} frames ({reason_of(err, timeout_s)})"
        )


def cut_short(container: Any, stream: Any, count: int, seconds: float | None) -> str | None:
    """Why a video that ended without an error is not whole: less than 95 % of what its head promises; else None."""
    promised = container.duration / 1_000_000 if container.duration else 0.0
    if seconds is not None and seconds < 0.95 * promised - 1:
        return f"it ends after {seconds:.1f} s, of {promised:.1f} s that it says it has"
    if count < 0.95 * stream.frames:
        return f"it ends after {count} frames, of {stream.frames} that it says it has"
    return None


def upright(frame: Any) -> np.ndarray:
    """A frame as uint8 RGB [H, W, 3], turned as its container says."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


@dataclass(frozen=True)
class Feed:
    """A camera or a stream: `name` for people, `address` and `format` for FFmpeg."""

    name: str
    address: str
    format: str | None
    every: int
    timeout_s: float


class Newest:
    """The newest frame of each of several feeds, read by a thread each; a frame that nobody took in time is dropped."""

    def __init__(self, feeds: list[Feed], cameras: Sequence[Camera] = ()) -> None:
        """`cameras`: whose frames are wanted raw."""
        self.cameras = cameras
        self.frames: dict[str, Picture] = {}
        self.running = len(feeds)
        self.changed = Condition()
        self.stopped = False
        for feed in feeds:
            Thread(target=self.read, args=(feed,), daemon=True).start()

    def read(self, feed: Feed) -> None:
        """Keep the newest frame of one feed until it ends, or `stopped`."""
        try:
            for picture in frames(feed.address, feed.every, feed.timeout_s, feed.format, self.cameras):
                if self.stopped:
                    return
                self.put(feed.name, replace(picture, name=feed.name, arrived=time.perf_counter()))
        except DhoxError as err:
            self.put(feed.name, Picture(feed.name, None, error=err.reason))
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify()

    def put(self, name: str, picture: Picture) -> None:
        """A new frame; an error waits until the frame before it is taken."""
        with self.changed:
            while picture.error and name in self.frames and not self.stopped:
                self.changed.wait(0.1)
            self.frames[name] = picture
            self.changed.notify()

    def __iter__(self) -> Iterator[Picture]:
        """Frames as they come, the longest waiting first, until every feed has ended."""
        try:
            while True:
                with self.changed:
                    while not self.frames and self.running:
                        self.changed.wait(0.2)  # so that Ctrl-C is heard
                    if not self.frames:
                        return
                    picture = self.frames.pop(next(iter(self.frames)))
                    self.changed.notify()
                yield picture
        finally:
            self.stopped = True

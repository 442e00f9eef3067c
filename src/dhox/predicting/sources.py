"""Where images come from: files, folders, patterns, manifests, standard input, videos, cameras, streams."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dhox.data.dataset import read_dataset
from dhox.data.folder import image_files
from dhox.data.items import Item
from dhox.data.label_studio import is_label_studio
from dhox.data.leftovers import Leftovers
from dhox.data.manifest import MANIFESTS, named_rows, picture_path
from dhox.errors import DhoxError, not_there
from dhox.predicting.picture import Picture
from dhox.predicting.video import VIDEO_SUFFIXES, Feed, count_frames, frames
from dhox.runtimes.predict import ImageLike

ALWAYS_LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp", "srt"}
ADDRESSES = ALWAYS_LIVE | {"http", "https"}
CHUNK = 8  # images that a thread reads at a time, where all of them are there


@dataclass
class Source:
    """Something that gives pictures, in order. `pictures` starts from the beginning each time.

    `count`: how many there will be; None where nobody knows. `chunk`: how many may wait for each other. `feed`: of a
    camera or stream, whose frames are answered when they come, or dropped. `moving`: it gives frames, no files.
    """

    name: str
    pictures: Callable[[], Iterator[Picture]]
    count: int | None = None
    chunk: int = CHUNK
    feed: Feed | None = None
    moving: bool = False
    leftovers: Leftovers = field(default_factory=Leftovers)


@dataclass(frozen=True)
class Reading:
    """How sources are read. `classes`: names that folders may have. `every`: of a video or camera every N-th frame is
    taken; `timeout_s`: how long an address or a camera may send nothing."""

    classes: frozenset[str]
    every: int = 1
    timeout_s: float = 10.0


def find_source(word: str, reading: Reading) -> Source:
    """What a word of the command line means. Raises DhoxError where it is nothing that gives images."""
    scheme = urlsplit(word).scheme if "://" in word else ""
    if word == "-":
        return Source("standard input", lambda: listed(sys.stdin), chunk=1)
    if word.startswith("camera:") or scheme:
        return camera_or_stream(word, scheme, reading)
    path = Path(word)
    if path.is_dir():
        return folder(path, reading)
    if path.exists():
        return file(path, reading)
    if glob.has_magic(word):
        return pattern(word, reading)
    raise not_there(
        word,
        "Give files, folders, patterns in quotes ('photos/*.jpg'), a .csv, .tsv or .parquet manifest, videos, "
        "camera:0, rtsp://..., or - for paths on standard input.",
    )


def given(images: Iterable[ImageLike]) -> Source:
    """Images that a program gives itself, as `dhox.load(...)` takes them."""
    return Source(
        "given images",
        lambda: (Picture(f"image {number}", image) for number, image in enumerate(images)),
        len(images) if isinstance(images, (list, tuple)) else None,
        chunk=CHUNK if isinstance(images, (list, tuple)) else 1,
    )


def file(path: Path, reading: Reading) -> Source:
    """A video, a manifest, an export of Label Studio or CVAT, or else an image."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return video(str(path), reading)
    if is_label_studio(path) or suffix == ".xml":
        items = [item for items in read_dataset(path).values() for item in items]
        return Source(str(path), lambda: (Picture(item.file, item, item.label) for item in items), len(items))
    if suffix in MANIFESTS:
        rows = sum(1 for _ in named_rows(path, ("path",)))
        if not rows:
            raise DhoxError(f"{path} lists no image.", "Check the path.")
        return Source(str(path), lambda: manifest_pictures(path), rows)
    return Source(str(path), lambda: iter([Picture(str(path), path)]), 1)


def folder(root: Path, reading: Reading) -> Source:
    """All images at or below a folder. One that is named after a class labels what lies in it."""
    leftovers = Leftovers()
    count = sum(1 for _ in image_files(root, leftovers))
    if not count:
        raise DhoxError(f"{root} holds no image.", " ".join([*leftovers.lines(), "Check the path."]))

    def pictures() -> Iterator[Picture]:
        for path, inside in image_files(root):
            above = (root.resolve().name, *inside.split("/")[:-1])
            yield Picture(path, path, folder_label(above, reading.classes))

    return Source(str(root), pictures, count, leftovers=leftovers)


def pattern(word: str, reading: Reading) -> Source:
    """The files that a pattern (* ? [] **) matches, in order of their names."""
    found = sorted(path for path in glob.iglob(word, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not found:
        raise DhoxError(f"No file matches {word}.", "Check the pattern.")
    fixed = len(Path(word[: min(map(word.find, (c for c in "*?[" if c in word)))]).parts)  # before the first wildcard

    def pictures() -> Iterator[Picture]:
        for path in found:
            yield Picture(path, path, folder_label(Path(path).parts[max(0, fixed - 1) : -1], reading.classes))

    return Source(word, pictures, len(found))


def folder_label(above: tuple[str, ...], classes: frozenset[str]) -> str | None:
    """The first of the folders above an image, from the source down, that is named after a class."""
    return next((name for name in above if name in classes), None)


def manifest_pictures(manifest: Path) -> Iterator[Picture]:
    """The images of a manifest's rows, with their labels where it has some."""
    for row, (_, texts) in enumerate(named_rows(manifest, ("path",))):
        path = str(manifest.parent / picture_path(manifest, texts["path"]))
        yield Picture(path, Item(path, path, row=row), texts.get("label") or None)


def listed(lines: Iterable[str]) -> Iterator[Picture]:
    """The paths that stand on lines."""
    for line in lines:
        if path := line.rstrip("\r\n"):
            yield Picture(path, path)


def video(address: str, reading: Reading) -> Source:
    """A recorded video. Raises DhoxError for what is none."""
    count = count_frames(address, reading.every, reading.timeout_s)
    return Source(address, lambda: frames(address, reading.every, reading.timeout_s), count, chunk=1, moving=True)


def camera_or_stream(word: str, scheme: str, reading: Reading) -> Source:
    """camera:N, or an address. Raises DhoxError for one that nobody knows."""
    if scheme and scheme not in ADDRESSES:
        known = ", ".join(sorted(ADDRESSES))
        raise DhoxError(f"{word} begins with {scheme}://, which is not read.", f"Use one of: {known}.")
    if scheme not in {*ALWAYS_LIVE, ""} and Path(urlsplit(word).path).suffix.lower() in VIDEO_SUFFIXES:
        return video(word, reading)
    if not scheme:
        device = word.removeprefix("camera:")
        path = f"/dev/video{device}" if device.isdecimal() else device
        if not os.path.exists(path):  # noqa: PTH110
            there = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"  # noqa: PTH207
            raise DhoxError(f"{word}: there is no {path} (cameras here: {there}).", "Plug it in, or name another.")
        feed = Feed(word, path, "v4l2", reading.every, reading.timeout_s)
    else:
        feed = Feed(word, word, None, reading.every, reading.timeout_s)
    return Source(word, lambda: iter(()), feed=feed, moving=True)

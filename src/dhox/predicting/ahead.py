"""Pictures read, decoded and cut to the model's input by threads, ahead of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.data.images import UnreadableImageError
from dhox.errors import DhoxError
from dhox.predicting.picture import Picture
from dhox.predicting.sources import Source
from dhox.runtimes.predict import pixels

WAIT_S = 0.2  # what a batch that is not full waits for more
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as the model's input, uint8 [crop, crop, 3]; or None, and why."""

    picture: Picture
    pixels: np.ndarray | None
    error: str | None = None


def prepare(picture: Picture, preprocessing: Preprocessing) -> Prepared:
    """Decode and cut one picture."""
    if picture.image is None:
        return Prepared(picture, None, picture.error)
    try:
        return Prepared(picture, pixels(picture.image, preprocessing))
    except UnreadableImageError as err:
        return Prepared(picture, None, err.why)
    except DhoxError as err:
        return Prepared(picture, None, err.reason)


def batches(
    sources: list[Source], preprocessing: Preprocessing, size: int, skip: Callable[[Picture], bool]
) -> Iterator[list[Prepared]]:
    """The pictures of all sources in order, `size` at a time, but for those that `skip` names.

    A batch that waits longer than WAIT_S for its next picture goes as it is.
    """
    waiting: list[Prepared] = []
    for chunk in chunks_ahead(sources, preprocessing, skip):
        waiting += chunk or []
        while len(waiting) >= size or (chunk is None and waiting):
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting:
        yield waiting


def chunks_ahead(
    sources: list[Source], preprocessing: Preprocessing, skip: Callable[[Picture], bool]
) -> Iterator[list[Prepared] | None]:
    """Prepared pictures, a few at a time; None while the next ones are not there yet."""
    threads = os.cpu_count() or 1
    queue: Queue[Future[list[Prepared]] | BaseException | None] = Queue(4 * threads)
    stop = Event()

    def put(entry: Future[list[Prepared]] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                queue.put(entry, timeout=0.1)
            except Full:
                continue
            return

    def feed() -> None:
        try:
            for source in sources:
                pictures = (picture for picture in source.pictures() if not skip(picture))
                for chunk in chunked(pictures, source.chunk):
                    put(pool.submit(lambda some: [prepare(picture, preprocessing) for picture in some], chunk))
                    if stop.is_set():
                        return
            put(None)
        except BaseException as err:  # raised again where the batches are used
            put(err)

    pool = ThreadPoolExecutor(threads)
    Thread(target=feed, daemon=True).start()
    try:
        while True:
            try:
                entry = queue.get(timeout=WAIT_S)
            except Empty:
                yield None
                continue
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry.result()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def chunked(things: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` things, the last one shorter."""
    chunk: list[T] = []
    for thing in things:
        chunk.append(thing)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

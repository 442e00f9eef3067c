"""What a board said of itself before a bench there, as bench.json records it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dhox.artefacts.record import Count, Record


class BoardRuntime(Record):
    """Whether a package of the board works, and its version or why it does not."""

    works: bool
    found: str


class BoardPython(Record):
    """The interpreter there."""

    version: tuple[int, int, int]
    path: str


class Probe(Record, kw_only=True):
    """What the board said of itself before anything was copied."""

    host: str
    machine: str
    system: str
    libc: tuple[str, str]
    python: BoardPython
    tensorrt: BoardRuntime
    onnxruntime: BoardRuntime
    texts: Annotated[dict[str, str], Meta(description="contents of small system files by path")]
    store: Annotated[str, Meta(description="folder there that keeps what was copied")]
    free_bytes: Count
    environment: Annotated[list[str], Meta(description="keys of the packages that the last bench brought")]


class Remote(Record, kw_only=True):
    """A bench over ssh."""

    host: Annotated[str, Meta(description="--host as given")]
    python: Annotated[str, Meta(description="--remote-python as given")]
    probe: Probe
    paths: Annotated[dict[str, str], Meta(description="path here to path there; every text names the former")]

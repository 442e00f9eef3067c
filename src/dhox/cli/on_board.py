"""What `dhox bench --host` runs on the board: the engines that are missing there, then the bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from dhox.artefacts.files import EXPORT_FILE
from dhox.artefacts.record import Record
from dhox.bench.options import BenchOptions
from dhox.bench.remote.board_engines import build_missing
from dhox.cli.bench import measure
from dhox.cli.main import one_message
from dhox.console import say
from dhox.errors import DhoxError
from dhox.options.declare import build


class Asked(Record):
    """`models`, `options`: of `dhox bench`, with paths of this machine. `engines`: whether TensorRT works here."""

    models: list[str]
    options: dict[str, Any]
    engines: bool


def run(asked: Asked) -> None:
    """Build and measure. Raises DhoxError as `dhox bench` does, but for what its results say themselves."""
    paths, options = [Path(model) for model in asked.models], build(BenchOptions, **asked.options)
    exports = [path for path in paths if (path / EXPORT_FILE).is_file()]
    if asked.engines and options.where.device != "cpu" and exports:
        try:
            build_missing(exports, list(options.what.precision), list(options.how.batches))
        except DhoxError as err:
            if options.where.device in {"jetson", "tensorrt"}:
                raise
            say(f"No TensorRT engines: {err}")
    _, ended = measure(paths, options)
    if ended is not None:
        raise ended


if __name__ == "__main__":
    with one_message():
        run(msgspec.json.decode(sys.argv[1], type=Asked))

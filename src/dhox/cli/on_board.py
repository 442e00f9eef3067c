"""What `dhox bench --host` runs on the board: the engines that are missing there, then the bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dhox.bench.remote.board_engines import build_missing
from dhox.cli.main import main
from dhox.console import say
from dhox.errors import DhoxError, error_line


def run(asked: str) -> None:
    """`asked`: JSON of the engines to build, or null, and the words of `dhox bench`."""
    request = json.loads(asked)
    engines = request["engines"]
    if engines is not None:
        try:
            build_missing([Path(path) for path in engines["exports"]], engines["precisions"], engines["batches"])
        except DhoxError as err:
            if engines["needed"]:
                print(error_line(err), file=sys.stderr)
                sys.exit(err.exit_code)
            say(f"No TensorRT engines: {err}")
    main(["bench", *request["words"]])


if __name__ == "__main__":
    run(sys.argv[1])

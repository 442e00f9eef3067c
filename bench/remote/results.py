"""Results of a bench on a board: brought home, checked, and written with the paths of this machine."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dhox.artefacts.bench import Bench
from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, output_directory, write_bytes
from dhox.artefacts.record import Head, write_record
from dhox.artefacts.remote import Remote
from dhox.bench.remote.answers import read_answer
from dhox.bench.remote.link import Board
from dhox.bench.remote.rsync import pull
from dhox.bench.run import BenchResult
from dhox.console import say
from dhox.errors import DhoxError, StoppedError

# The folder of a bench, or of one of its power modes; .partial where it did not come to its end.
FOLDER = re.compile(r"bench(\.partial)?(/(\d{1,4}-[\w.+ ()-]{1,80}))?", re.ASCII)
OTHERS = ("samples.npz", "predictions.csv")


def bring(board: Board, place: str, out: Path, remote: Remote, overwrite: bool) -> list[BenchResult]:
    """Write the benches of a run here; they stay there. Raises DhoxError where they cannot be read or written."""
    results = []
    with tempfile.TemporaryDirectory(prefix="dhox-") as folder:
        pull(board.connection, place, Path(folder))
        for mode, found in benches_of(Path(folder)).items():
            bench = read_content(found / BENCH_FILE, remote)
            if bench is None:
                continue
            final = out / plain(mode) if mode else out
            with output_directory(final, BENCH_FILE, BENCH_SCHEMA, overwrite) as partial:
                for name in OTHERS:
                    if (found / name).is_file():
                        write_bytes(partial / name, (found / name).read_bytes())
                write_record(partial / BENCH_FILE, bench)
            say(f"Results of {board.host}: {final}")
            results.append(BenchResult(final, bench))
    return results


def benches_of(folder: Path) -> dict[str, Path]:
    """The folders with a bench.json among the files of a run, by power mode ("" without)."""
    found = {}
    for path in sorted(folder.glob(f"**/{BENCH_FILE}")):
        name = FOLDER.fullmatch(path.parent.relative_to(folder).as_posix())
        if name is not None and path.is_file():
            found[(name[3] or "").removesuffix(".partial")] = path.parent
    return found


def read_content(path: Path, remote: Remote) -> Bench | None:
    """bench.json from the board with the paths of this machine; None where it holds no results yet.

    Raises DhoxError where dhox did not write it.
    """
    here = {there: path for path, there in remote.paths.items()}
    try:
        content = read_answer(path.read_bytes(), dict[str, Any])
        head = msgspec.convert(content, Head)
        if not head.finished_at:
            return None
        # Killed there between two batch sizes, it still says that it runs.
        status = "complete" if head.status == "complete" else "interrupted"
        moved = replace_texts(content, here) | {"status": status, "remote": msgspec.to_builtins(remote)}
        return msgspec.convert(moved, Bench)
    except ValueError as err:
        raise DhoxError(f"The {BENCH_FILE} of the board is damaged ({err}).", "Run the same command again.") from err


def replace_texts(value: Any, texts: dict[str, str]) -> Any:
    """JSON with every occurrence of some texts replaced."""
    if isinstance(value, dict):
        return {key: replace_texts(one, texts) for key, one in value.items()}
    if isinstance(value, list):
        return [replace_texts(one, texts) for one in value]
    if isinstance(value, str):
        for there, here in texts.items():
            value = value.replace(there, here)
    return value


def plain(name: str) -> str:
    """A name of the board's as the name of a folder here."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "board"


@contextlib.contextmanager
def said_to_remain(host: str, folder: str) -> Iterator[None]:
    """Every error of the block says that results may lie in a folder of the board, and how to get them."""
    address = f"scp{host[3:].rstrip('/')}/{folder}" if host.startswith("ssh://") else f"{host}:{folder}"
    remain = f"What was measured lies there in {folder}; `scp -r {shlex.quote(address)} .` brings it here."
    try:
        yield
    except KeyboardInterrupt as err:
        raise StoppedError(f"Interrupted; {host} ends what it was running.", remain) from err
    except DhoxError as err:
        raise type(err)(err.reason, f"{err.fix} {remain}") from err
    except OSError as err:
        raise DhoxError(f"The results could not be written here ({err}).", remain) from err

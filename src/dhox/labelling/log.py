"""The label log: lines of JSON that are only ever appended, each on disk before anyone hears of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from dhox.data.dataset import data_address
from dhox.errors import DhoxError
from dhox.labelling.entries import Entry, Header, encoded
from dhox.labelling.state import State

MEND = "Put a copy in its place, or begin another log from its labels.csv: --out FILE --import labels.csv."


class LabelLog:
    """An open log and what it comes to. `cut`: bytes of a last line that a crash had left unfinished."""

    def __init__(self, path: Path, descriptor: int, header: Header, state: State, cut: int) -> None:
        self.path, self.header, self.state, self.cut = path, header, state, cut
        self._descriptor = descriptor

    def append(self, *entries: Entry) -> int:
        """Write entries, wait until the disk has them, and take them in; the line of the last one.

        Raises ValueError where one contradicts what is there, and DhoxError where they cannot be written: then the log
        is as it was.
        """
        before = os.fstat(self._descriptor).st_size
        try:
            write_whole(self._descriptor, b"".join(map(encoded, entries)))
            return [self.state.apply(entry) for entry in entries][-1]
        except (OSError, ValueError) as err:
            os.ftruncate(self._descriptor, before)
            if isinstance(err, ValueError):
                raise
            raise DhoxError(
                f"The answer could not be written to {self.path} ({err.strerror}).",
                "Free space there, and answer again.",
            ) from err


@contextmanager
def open_log(path: Path, data: Path, classes: list[str]) -> Iterator[LabelLog]:
    """Open the log of DATA, or begin it, and hold it until the block ends.

    Raises DhoxError where another process holds it, where it belongs to other DATA, and where a line is damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as err:
        raise DhoxError(f"Could not open the label log {path} ({err.strerror}).", "Choose another --out.") from err
    try:
        hold(path, descriptor)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            content = file.read()
        whole, torn = split_torn(path, content)
        if torn:
            os.ftruncate(descriptor, len(whole))
        if not whole:
            whole = encoded(Header(data_address(data), classes))
            write_whole(descriptor, whole)
            keep_name(path)
        header, state = replay(path, whole)
        check_data(path, header, data)
        yield LabelLog(path, descriptor, header, state, len(torn))
    finally:
        os.close(descriptor)


def hold(path: Path, descriptor: int) -> None:
    """Lock the file; a killed process holds nothing."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        raise DhoxError(
            f"{path} is being written by another dhox label.",
            "Open the address that it printed, end it, or choose another --out.",
        ) from err


def write_whole(descriptor: int, content: bytes) -> None:
    """Append and wait for the disk. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def keep_name(path: Path) -> None:
    """Wait until the disk has the file's name too."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def split_torn(path: Path, content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and what a crash left of the line behind them. Raises DhoxError for what never was a log."""
    end = content.rfind(b"\n") + 1
    begin = b'{"data":'
    if not content[: len(begin)].startswith(begin[: len(content)]):
        raise DhoxError(f"{path} is no label log.", "Choose another --out: its log has the same name with .jsonl.")
    return content[:end], content[end:]


def replay(path: Path, content: bytes) -> tuple[Header, State]:
    """Header and state of whole lines. Raises DhoxError naming the line that is damaged."""
    first, *lines = content.split(b"\n")[:-1]
    state = State()
    decoder = msgspec.json.Decoder(Entry)
    number = 1
    try:
        header = msgspec.json.decode(first, type=Header)
        for line in lines:
            number += 1
            state.apply(decoder.decode(line))
    except (ValueError, RecursionError) as err:
        raise DhoxError(f"{path}, line {number} is damaged ({err}).", MEND) from err
    return header, state


def check_data(path: Path, header: Header, data: Path) -> None:
    """Raise DhoxError where a log belongs to other DATA."""
    mine = data_address(data)
    if header.data != mine and Path(header.data).resolve() != Path(mine).resolve():
        raise DhoxError(
            f"{path} holds labels of {header.data}, not of {mine}.",
            "Choose another --out. Where DATA was moved, --import takes the old labels.csv into the new log.",
        )


def now() -> str:
    """The time of an entry: UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")

"""SIGINT, SIGTERM and SIGHUP: one line and exit code 130, from the first import of a command to its end.

Imports swallow a KeyboardInterrupt or tear it to pieces, so that until a command works its process simply ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from dhox.errors import StoppedError, dhox_command

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_TORCHRUN = "RANK" in os.environ  # it stops its processes itself, by SIGTERM


def typed(*more: str) -> str:
    """The command as it was typed, with options added that it lacks."""
    words = sys.argv[1:] + [word for word in more if word not in sys.argv]
    return " with ".join(["the same command", *more]) if OF_TORCHRUN else dhox_command(*words)


def leave(number: int, frame: FrameType | None) -> None:
    """The handler while nothing has begun, and after the end."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"Interrupted. To run it again: {typed()}\n".encode())
    os._exit(StoppedError.exit_code)


def leave_at_once() -> None:
    """The signals end the process where nobody has decided otherwise (nohup ignores SIGHUP)."""
    for number in STOPPING[:1] if OF_TORCHRUN else STOPPING:
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, leave)


@contextlib.contextmanager
def on_interrupt(kept: Callable[[], str]) -> Iterator[None]:
    """The signals raise KeyboardInterrupt in the block, which ends with StoppedError: `kept` says then what is kept."""
    try:
        ours = [number for number in STOPPING if signal.getsignal(number) is leave]
        try:
            for number in ours:
                signal.signal(number, signal.default_int_handler)
            yield
        finally:
            for number in ours:
                signal.signal(number, leave)
    except KeyboardInterrupt:
        raise StoppedError("Interrupted.", kept()) from None


def nothing_written() -> str:
    """What most commands keep."""
    return f"Nothing was written. To run it again: {typed()}"

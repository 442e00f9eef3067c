"""Signals that end a bench in order: what was measured is kept, what was changed is restored."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Stop:
    """Whether a stopping signal came: its number, or None."""

    signal: int | None = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if one came: others may have swallowed the first (an import makes it ImportError)."""
        if self.signal is not None:
            raise KeyboardInterrupt(signal.Signals(self.signal).name)


outer: list[Stop] = []  # of the contexts that are open, at most one


@contextlib.contextmanager
def stopping_signals() -> Iterator[Stop]:
    """The first SIGINT, SIGTERM or SIGHUP as KeyboardInterrupt, noted in the Stop; further ones are ignored.

    Within another such context it is that one's Stop. Handlers that others set stay, and so does a SIGHUP that is
    ignored (nohup); outside the main thread there are none to set.
    """
    if outer or threading.current_thread() is not threading.main_thread():
        yield outer[-1] if outer else Stop()
        return
    stop = Stop()

    def take(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        stop.signal = number
        stop.check()

    usual = {signal.SIG_DFL, signal.default_int_handler}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in before.items() if handler in usual}
    for number in before:
        signal.signal(number, take)
    outer.append(stop)
    try:
        yield stop
    finally:
        outer.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignored_signals() -> Iterator[None]:
    """No signal that can be ignored stops the block, nor the commands that it starts."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

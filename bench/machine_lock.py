"""One bench at a time on this machine, whoever started it: two at once would be in each other's times."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator

from dhox.bench.interrupts import stopping_signals
from dhox.bench.remote.board import take
from dhox.console import say
from dhox.errors import StoppedError

POLL_S = 0.2

holders: list[socket.socket] = []  # of the blocks that are open in this process, at most one


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold this machine's lock, the one of `dhox bench --host` too; waits, and says so, while another bench holds it.

    Within another such block, and where there are no abstract sockets (Linux has them), it does nothing. Raises
    StoppedError where a stopping signal ends the wait.
    """
    if holders or sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX) as holder:
        _wait_for_turn(holder)
        holders.append(holder)
        try:
            yield
        finally:
            holders.remove(holder)


def _wait_for_turn(holder: socket.socket) -> None:
    """Take the lock with a socket, as soon as it is free."""
    if take(holder):
        return
    try:
        with stopping_signals():
            say("Another dhox bench measures on this machine: waiting for its end (Ctrl-C gives up).")
            while not take(holder):
                time.sleep(POLL_S)
    except KeyboardInterrupt as err:
        raise StoppedError("Interrupted before anything was measured.", "Run the same command again.") from err

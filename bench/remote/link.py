"""A board at the other end of ssh: requests to board.py there, and its answers."""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

from dhox.artefacts.record import Record
from dhox.artefacts.remote import Probe
from dhox.bench.remote.answers import Done, Failed, Said, read_answer
from dhox.bench.remote.board import INTERRUPTED, MARK, PATIENCE_S
from dhox.bench.remote.ssh import LINK_FAILED, Connection, Session, why
from dhox.errors import DhoxError

OLDEST_PYTHON = (3, 10)
HEARTBEAT_S = 5.0
# What Python there runs first: it reads the program, which is longer than a command line may be, from stdin.
START = "sys.path[:]=[p for p in sys.path if p];i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
TOO_OLD = "dhox-too-old "
CHECK = f"import sys;sys.version_info<{OLDEST_PYTHON!r} and sys.exit('{TOO_OLD}%d.%d'%sys.version_info[:2]);"
NO_COMMAND = (126, 127)  # exit statuses of a shell, and of env, where they cannot start a command

R = TypeVar("R", bound=Record)


class Board:
    """A board, reached over ssh; a context manager. `python`: what is called there.

    Every method raises DhoxError with one clear message for a failed login, a lost connection, and a board without a
    Python that dhox can use.
    """

    def __init__(self, host: str, python: str = "python3") -> None:
        self.host = host
        self.python = python
        self.connection = Connection(host)

    def __enter__(self) -> Board:
        self.connection.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def start(self, action: str, arguments: dict[str, Any]) -> Session:
        """Send one request; arguments travel as JSON on stdin, so that no shell sees them."""
        # No -X utf8: Python 2 would refuse it before it could say that it is too old.
        session = self.connection.start("env", "PYTHONUTF8=1", self.python, "-c", CHECK + START)
        program = files("dhox.bench.remote").joinpath("board.py").read_bytes()
        request = json.dumps({"action": action, "arguments": arguments}).encode()
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, and stderr says why
            session.stdin.write(b"%d\n" % len(program) + program + request + b"\n")
            session.stdin.flush()
        return session

    def answer(self, session: Session, kind: type[R]) -> R:
        """The next answer; what a shell says besides is ignored. Raises DhoxError where the board refuses."""
        for line in session.stdout:
            if not line.startswith(MARK):
                continue
            try:
                error = read_answer(line[len(MARK) :], Failed).error
                found = None if error else read_answer(line[len(MARK) :], kind)
            except ValueError as err:
                raise DhoxError(
                    f"{self.host} gave an answer that dhox does not understand ({err}).",
                    "Check that it is the machine that you mean, and that the login shell there prints nothing.",
                ) from err
            if found is None:
                assert error is not None
                raise error.error(self.host)
            return found
        raise self.failure(session)

    def failure(self, session: Session) -> DhoxError:
        """Why a session ended without an answer."""
        status, said = session.end(), session.stderr()
        if status == LINK_FAILED:
            return why(self.host, said, stood=True)
        last = said.strip().splitlines()[-1] if said.strip() else f"status {status}"
        if last.startswith(TOO_OLD):
            return DhoxError(
                f"{self.host}: {self.python} is Python {last[len(TOO_OLD) :]}, dhox needs "
                f"{'.'.join(map(str, OLDEST_PYTHON))} or newer.",
                "Install one there, and name it with --remote-python.",
            )
        if status in NO_COMMAND:
            return DhoxError(
                f"{self.host} has no Python named {self.python} ({last}).",
                "Install it there (apt install python3), or name another with --remote-python.",
            )
        return DhoxError(
            f"{self.host}: {shlex.quote(self.python)} there did not answer ({last}).",
            f"Check it with `ssh {shlex.quote(self.host)} {shlex.quote(self.python)} -V`, or name another with "
            "--remote-python.",
        )

    def ask(self, action: str, kind: type[R], **arguments: Any) -> R:
        """One request with one answer."""
        session = self.start(action, arguments)
        try:
            return self.answer(session, kind)
        finally:
            session.end()

    def probe(self) -> Probe:
        """What the board is, see `dhox.bench.remote.board.probe`."""
        return self.ask("probe", Probe)

    def prepare(self, trees: list[str]) -> None:
        """Make folders there to copy into, see `dhox.bench.remote.board.prepare`."""
        self.ask("prepare", Done, trees=trees)

    def forget(self, place: str) -> None:
        """Delete a folder there."""
        self.connection.start("rm", "-rf", "--", place).end()

    def look(self, command: list[str], environment: dict[str, str]) -> tuple[int, bytes, str]:
        """Run a command that measures nothing, beside a bench too; its status, what it wrote, and its errors."""
        session = self.start("look", {"command": command, "environment": environment})
        try:
            written = session.stdout.read()
        finally:
            status = session.end()
        if status == LINK_FAILED:
            raise self.failure(session)
        return status, written, session.stderr()

    def run(self, command: list[str], environment: dict[str, str], run: str, show: Callable[[str], None]) -> int:
        """Run a command there; `show` gets its output line by line. Answers with its status.

        On KeyboardInterrupt the board ends the command in order (SIGINT first), which is waited for, and the status is
        INTERRUPTED; a second one cuts the connection and is raised, and the board does the same unwatched.
        """
        arguments = {"command": command, "environment": environment, "run": run, "patience_s": PATIENCE_S}
        session = self.start("run", arguments)
        over = threading.Event()
        beats = threading.Thread(target=_heartbeat, args=(session, over), daemon=True)
        beats.start()
        try:
            try:
                return self.relay(session, show)
            except KeyboardInterrupt:
                over.set()
                beats.join()
                with contextlib.suppress(OSError):
                    session.stdin.close()
                with contextlib.suppress(DhoxError):
                    self.relay(session, show)
                return INTERRUPTED
        finally:
            over.set()
            beats.join()
            session.end()

    def relay(self, session: Session, show: Callable[[str], None]) -> int:
        """Show output until the command's status comes."""
        while (said := self.answer(session, Said)).status is None:
            show(said.out)
        return said.status


def _heartbeat(session: Session, over: threading.Event) -> None:
    """A byte now and then, so that the board knows that somebody waits."""
    while not over.wait(HEARTBEAT_S):
        try:
            session.stdin.write(b"\n")
            session.stdin.flush()
        except (OSError, ValueError):
            return

"""A board at the other end of ssh: requests to board.py there, and its answers."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tarfile
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from types import TracebackType
from typing import IO, Any

from dhox.artefacts.files import LARGEST_NPZ
from dhox.bench.remote.answers import LOOK, OUT, PROBE, STATUS, fits, read_answer
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
# Results of a bench, or of one of its power modes; .partial where it did not come to its end.
FOLDER = r"bench(\.partial)?/(\d{1,4}-[\w.+ ()-]{1,80}/)?"
RESULT = re.compile(FOLDER + r"(bench\.json|samples\.npz|predictions\.csv)", re.ASCII)


class Board:
    """A board, reached over ssh; a context manager. `python`: what is called there.

    Every method raises DhoxError with one clear message for a failed login, a lost connection, a board without a
    Python that dhox can use, and a full disk there.
    """

    def __init__(self, host: str, python: str = "python3") -> None:
        self.host = host
        self.python = python
        self.connection = Connection(host)

    def __enter__(self) -> Board:
        self.connection.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def start(self, action: str, arguments: dict[str, Any]) -> Session:
        """Send one request; arguments travel as JSON on stdin, so that no shell sees them."""
        # No -X utf8: Python 2 would refuse it before it could say that it is too old.
        session = self.connection.start("env", "PYTHONUTF8=1", self.python, "-c", CHECK + START)
        program = files("dhox.bench.boards").joinpath("board.py").read_bytes()
        request = json.dumps({"action": action, "arguments": arguments}).encode()
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, and stderr says why
            session.stdin.write(b"%d\n" % len(program) + program + request + b"\n")
            session.stdin.flush()
        return session

    def answer(self, session: Session, *shapes: Any) -> dict[str, Any]:
        """The next answer, of one of the shapes (see `fits`); what a shell says besides is ignored."""
        for line in session.stdout:
            if not line.startswith(MARK):
                continue
            try:
                content = read_answer(line[len(MARK) :])
            except ValueError as err:
                raise self.malformed(str(err)) from err
            if fits(content, {"error": str}):
                session.end()
                raise DhoxError(
                    f"{self.host}: {' '.join(content['error'].split())}.",
                    "Mend that there, and run the same command again.",
                )
            if not any(fits(content, shape) for shape in shapes):
                raise self.malformed(f"it holds {str(content)[:80]}")
            return dict(content)
        raise self.failure(session)

    def malformed(self, how: str) -> DhoxError:
        """An answer that board.py never gives."""
        return DhoxError(
            f"{self.host} gave an answer that dhox does not understand ({how}).",
            "Check that it is the machine that you mean, and that the login shell there prints nothing of its own.",
        )

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
            "Check it with "
            f"`ssh {shlex.quote(self.host)} {shlex.quote(self.python)} -V`, or name another with --remote-python.",
        )

    def ask(self, action: str, shape: Any, **arguments: Any) -> dict[str, Any]:
        """One request with one answer of a shape (see `fits`)."""
        session = self.start(action, arguments)
        try:
            return self.answer(session, shape)
        finally:
            session.end()

    def probe(self) -> dict[str, Any]:
        """What the board is, see `dhox.bench.remote.board.probe`."""
        return self.ask("probe", PROBE)

    def look(self, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        """Run a command that measures nothing, beside a bench too; its status, what it wrote, and its errors."""
        done = self.ask("look", LOOK, command=command, environment=environment)
        return done["status"], done["out"], done["err"]

    def send(
        self, blobs: dict[str, int], open_blob: Callable[[str], IO[bytes]], advance: Callable[[int], None]
    ) -> None:
        """Copy blobs (SHA-256: bytes) into the board's store in one stream; `advance` counts them."""
        session = self.start("receive", {"blobs": blobs})
        try:
            with tarfile.open(fileobj=session.stdin, mode="w|") as archive:
                for name, size in blobs.items():
                    member = tarfile.TarInfo(name)
                    member.size = size
                    with open_blob(name) as content:
                        archive.addfile(member, content)
                    advance(1)
            session.stdin.flush()
        except BrokenPipeError:
            pass  # the board says why
        except OSError as err:
            session.end()
            raise DhoxError(
                f"A file could not be copied to {self.host} ({err}).", "Run the same command again."
            ) from err
        except BaseException:
            session.end()
            raise
        try:
            self.answer(session, {})
        finally:
            session.end()

    def run(
        self, command: list[str], environment: dict[str, str], run: str, show: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        """Run a command there; `show` gets its output line by line. Answers with its status and its last lines.

        On KeyboardInterrupt the board ends the command in order (SIGINT first), which is waited for, and the status is
        INTERRUPTED; a second one cuts the connection and is raised, and the board does the same unwatched.
        """
        session = self.start(
            "run", {"command": command, "environment": environment, "run": run, "patience_s": PATIENCE_S}
        )
        tail: list[str] = []
        over = threading.Event()
        beats = threading.Thread(target=heartbeat, args=(session, over), daemon=True)
        beats.start()
        try:
            try:
                status = self.relay(session, show, tail)
            except KeyboardInterrupt:
                over.set()
                beats.join()
                with contextlib.suppress(OSError):
                    session.stdin.close()
                status = INTERRUPTED
                with contextlib.suppress(DhoxError):
                    self.relay(session, show, tail)
        finally:
            over.set()
            beats.join()
            session.end()
        return status, tail

    def relay(self, session: Session, show: Callable[[str], None], tail: list[str]) -> int:
        """Show output until the command's status comes."""
        while True:
            content = self.answer(session, OUT, STATUS)
            if "status" in content:
                return int(content["status"])
            show(content["out"])
            tail.append(content["out"])
            del tail[:-200]

    def collect(self, run: str) -> dict[str, bytes]:
        """The results that a run left there, relative path to content; they stay there until `forget`."""
        session = self.start("collect", {"run": run})
        try:
            count = self.answer(session, {"files": int})["files"]
            return dict(self.members(session)) if count else {}
        except tarfile.TarError as err:
            raise self.failure(session) from err
        finally:
            session.end()

    def forget(self, run: str) -> None:
        """Delete what a run left there."""
        self.ask("forget", {}, run=run)

    def members(self, session: Session) -> Iterator[tuple[str, bytes]]:
        """The files of a tar stream that are results (RESULT); nothing else is taken."""
        with tarfile.open(fileobj=session.stdout, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() and RESULT.fullmatch(member.name) else None
                if content is not None and member.size <= LARGEST_NPZ:
                    yield member.name, content.read()


def heartbeat(session: Session, over: threading.Event) -> None:
    """A byte now and then, so that the board knows that somebody waits."""
    while not over.wait(HEARTBEAT_S):
        try:
            session.stdin.write(b"\n")
            session.stdin.flush()
        except (OSError, ValueError):
            return

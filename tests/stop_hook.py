"""A process that imports dhox once and forks its commands, each of which may die at one chosen file operation.

Reads JSON lines {"arguments", "folder", "output", "stop", "copies"} and answers each with {"signal", "code", "points",
"seen"}. Stop points are the operations on files below `folder`, before they take effect: opening a file to write it, a
write, the second half of a write, fsync, rename, removing, making a folder. `stop` N: SIGKILL at the N-th (0: at none).
`copies`: a folder in which COPIES/N becomes what lies in `folder` at the N-th, or null.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR
AUDITED = {"os.rename": "rename", "os.remove": "remove", "os.mkdir": "make folder", "os.rmdir": "remove folder"}


class Points:
    """The operations of this process on files below a folder, at which it dies or copies that folder."""

    def __init__(self, folder: Path, stop: int, copies: str | None) -> None:
        self.folder, self.stop, self.copies = str(folder.resolve()), stop, copies
        self.names: list[str] = []
        self.seen: set[str] = set()
        self.lock = threading.Lock()

    def place(self, path: Any, directory: int = -1) -> str | None:
        """The absolute path below the folder, or None: elsewhere, or no path. `directory`: its descriptor, or -1."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        base = os.getcwd() if directory < 0 else os.readlink(f"/proc/self/fd/{directory}")  # noqa: PTH109, PTH115
        found = os.path.join(base, os.fsdecode(path))  # noqa: PTH118
        return found if found.startswith(f"{self.folder}/") else None

    def pass_one(self, name: str, path: str) -> None:
        """Count one operation; die where it is the chosen one."""
        with self.lock:
            self.names.append(f"{name} {path.removeprefix(self.folder)}")
            self.seen.add(path)
            if len(self.names) == self.stop:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.copies is not None:
                shutil.copytree(self.folder, f"{self.copies}/{len(self.names)}")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What Python tells before it opens, renames or removes a file."""
        if event == "open":
            path, _, flags = arguments
            place = self.place(path) if flags & WRITING else None
            if place and not (flags & os.O_APPEND and place in self.seen):  # a log's first lines stand for all
                self.pass_one("open", place)
        elif event == "os.rename":
            source, target, source_directory, target_directory = arguments
            place, new = self.place(source, source_directory), self.place(target, target_directory)
            if place and new:
                self.pass_one("rename", place)
                moved = (path for path in self.seen if path == place or path.startswith(f"{place}/"))
                self.seen |= {new + path.removeprefix(place) for path in moved}
        elif event in AUDITED and (place := self.place(arguments[0], arguments[-1])):
            self.pass_one(AUDITED[event], place)

    def install(self) -> None:
        """Watch this process from now on."""
        sys.addaudithook(self.audit)
        plain_open, plain_fsync = io.open, os.fsync

        def watched_open(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            opened = plain_open(file, mode, *more, **options)
            place = self.place(file)
            return opened if place is None or mode.strip("bt") in {"r", "a"} else WatchedFile(opened, place, self)

        def watched_fsync(descriptor: int) -> None:
            if place := self.place(os.readlink(f"/proc/self/fd/{descriptor}")):  # noqa: PTH115
                self.pass_one("fsync", place)
            plain_fsync(descriptor)

        io.open = builtins.open = watched_open
        os.fsync = watched_fsync


class WatchedFile:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, place: str, points: Points) -> None:
        self.file, self.place, self.points = file, place, points

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: Any) -> int:
        half = len(content) // 2
        self.points.pass_one("write", self.place)
        written: int = self.file.write(content[:half])
        self.file.flush()
        self.points.pass_one("second half", self.place)
        return written + int(self.file.write(content[half:]))


def run(asked: dict[str, Any], answer: int) -> None:
    """In the child: run the command, and tell of it where it comes to an end."""
    from dhox.cli.main import main

    folder = Path(asked["folder"])
    os.chdir(folder)
    output = os.open(asked["output"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    points = Points(folder, asked["stop"], asked["copies"])
    points.install()
    code: Any = 0
    try:
        main(asked["arguments"])
    except SystemExit as err:
        code = err.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    told = {"code": code, "points": points.names, "seen": sorted(points.seen), "modules": list(sys.modules)}
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(told))
    os._exit(0)


def serve() -> None:
    """Fork a child for every line; what a child imported is imported here for the next ones."""
    for line in sys.stdin:
        assert len(os.listdir("/proc/self/task")) == 1, "a thread would be lost in a fork"  # noqa: PTH208
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            run(json.loads(line), writer)
        os.close(writer)
        with os.fdopen(reader) as file:
            told = file.read()
        _, status = os.waitpid(child, 0)
        found = json.loads(told) if told else {"code": None, "points": [], "seen": [], "modules": []}
        for name in found.pop("modules"):
            # ONNX Runtime starts a thread when it is imported, which a fork would lose.
            if name not in sys.modules and name.partition(".")[0] not in {"onnxruntime", "__main__", "__mp_main__"}:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        print(json.dumps(found | {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None}), flush=True)


if __name__ == "__main__":
    serve()

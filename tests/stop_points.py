"""What a stop at each file operation of a command leaves, and that the documented next command works there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from dhox.artefacts.files import TEMPORARY

WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class Ended:
    """How a command ended: a signal, or an exit code with its file operations and the files that these named."""

    signal: int | None
    code: int | None
    points: list[str]
    seen: list[str]
    output: str


class Forks:
    """Runs commands of dhox in forks of one process that has imported everything (see stop_hook)."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DHOX_BENCH_LOCK": f"dhox-stop-{os.getpid()}-{log.stem}"}
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("stop_hook.py")], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, folder: Path, arguments: list[str], *, stop: int = 0, copies: Path | None = None) -> Ended:
        """Run a command in `folder`, DATA beside it.

        `stop`: the file operation at which it is killed, counted from 1; `copies`: where the states at all are kept.
        """
        words = [str(folder.parent / "data") if word == "DATA" else word for word in arguments]
        asked = {"arguments": words, "folder": str(folder), "output": str(self.log), "stop": stop}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(asked | {"copies": copies and str(copies)}), file=self.process.stdin, flush=True)
        return Ended(**json.loads(self.process.stdout.readline()), output=self.log.read_text(errors="replace"))

    def done(self, folder: Path, arguments: list[str], copies: Path | None = None) -> Ended:
        """Run a command that must end well."""
        ended = self.run(folder, arguments, copies=copies)
        assert ended.code == 0, f"{arguments}: {ended}"
        return ended

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Case:
    """A command, what of `made` it starts from, and how its result is read and held against an undisturbed one.

    `read`: what must be equal, from the folder in which the command ran; it raises where the result is not whole.
    `replaces`: whether such a result lies there before, so that the old or the new one must be whole at every moment.
    """

    arguments: list[str]
    needs: tuple[str, ...]
    read: Callable[[Path], object]
    replaces: bool = False


def copy_of(made: Path, names: tuple[str, ...], folder: Path) -> Path:
    """A new folder with some of what `made` holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        shutil.copytree(made / name, folder / name)
    return folder


def names_in(folder: Path) -> set[str]:
    """What lies there, but for temporary files of kills, which nobody reads, and TensorBoard's, named by the time."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in found if not TEMPORARY.fullmatch(Path(name).name) and "tfevents" not in name}


def digest(folder: Path) -> str:
    """A hash of all names and contents below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def stop_everywhere(case: Case, made: Path, workers: list[Forks], place: Path) -> tuple[int, int]:
    """Try what follows a stop at every stop point of a command; how many there are, and how many states they leave.

    One run is copied at each of its stop points: a process that is killed there leaves what lies there at that moment.
    """
    whole, copies = copy_of(made, case.needs, place / "whole"), copy_of(made, (), place / "copies")
    before = case.read(whole) if case.replaces else None
    there = set(whole.rglob("*"))
    points = (undisturbed := workers[0].done(whole, case.arguments, copies)).points
    unseen = {path for path in whole.rglob("*") if path.is_file()} - there - set(map(Path, undisturbed.seen))
    assert not unseen, f"files that were written behind the hook: {unseen}"
    expected, names = case.read(whole), names_in(whole)
    free: SimpleQueue[Forks] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def go_on(number: int) -> None:
        forks, point = free.get(), f"stopped at {number}, before: {points[number - 1]}"
        stopped, folder = copies / str(number), place / forks.log.stem
        try:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(stopped, folder)
            if case.replaces:
                assert case.read(stopped) in (before, expected), f"{point}: neither the old result nor the new one"
            again = forks.run(folder, case.arguments)
            if again.code == 1 and "Add --overwrite" in again.output:
                assert case.read(folder) == expected, f"{point}: called complete, and is not"
                again = forks.run(folder, [*case.arguments, "--overwrite"])
            assert again.code == 0, f"{point}: {again.output}"
            assert case.read(folder) == expected, f"{point}: another result than undisturbed"
            assert names_in(folder) == names, f"{point}: {names_in(folder) ^ names}"
        finally:
            free.put(forks)

    states = {digest(copies / str(number)): number for number in range(1, len(points) + 1)}
    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(go_on, sorted(states.values())))
    return len(points), len(states)

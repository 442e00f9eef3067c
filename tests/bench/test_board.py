"""The program that runs on a board: commands that end with the connection, one at a time, and its store."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dhox.bench.remote import board


def test_the_board_program_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(board.__file__).read_text(encoding="utf-8"), feature_version=(3, 10))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def board_process(
    tmp_path: Path, grace: dict[int, float], command: list[str], patience_s: float = board.PATIENCE_S
) -> subprocess.Popen[bytes]:
    code = f"from dhox.bench.remote import board; board.GRACE_S = {grace!r}; board.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"DHOX_REMOTE_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert process.stdin is not None
    arguments = {"command": command, "environment": {}, "run": "r", "patience_s": patience_s}
    request = {"action": "run", "arguments": arguments}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return process


def group_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline().removeprefix(board.MARK))["out"])


def is_gone(group: int) -> bool:
    """Whether no process of the group runs; one that was killed may still wait for init to count it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, found = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return False
    return True


def test_what_ignores_the_end_of_the_link_is_killed(tmp_path: Path) -> None:
    stubborn = ["bash", "-c", "trap '' INT TERM HUP; echo $$; while true; do sleep 0.1; done"]
    grace = {int(signal.SIGINT): 0.0, int(signal.SIGTERM): 0.3, int(signal.SIGKILL): 0.6}
    process = board_process(tmp_path, grace, stubborn)
    group = group_of(process)
    start = time.monotonic()
    output, _ = process.communicate(timeout=300)
    assert time.monotonic() - start > 0.5
    assert json.loads(output.splitlines()[-1].removeprefix(board.MARK))["status"] == -signal.SIGKILL
    assert is_gone(group)


def test_a_command_may_clean_up_and_speak_after_the_end_of_the_link(tmp_path: Path) -> None:
    tidy = ["bash", "-c", "trap 'sleep 0.5; echo restored; exit 7' INT; echo $$; sleep 100"]
    process = board_process(tmp_path, {int(n): s for n, s in board.GRACE_S.items()}, tidy)
    group_of(process)
    output, _ = process.communicate(timeout=300)
    answers = [json.loads(line.removeprefix(board.MARK)) for line in output.splitlines()]
    assert answers == [{"out": "restored"}, {"status": 7, "ended": "end of input"}]


def test_what_a_finished_command_left_behind_is_ended(tmp_path: Path) -> None:
    process = board_process(tmp_path, {}, ["bash", "-c", "echo $$; sleep 100 & exit 0"])
    group = group_of(process)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline().removeprefix(board.MARK))["status"] == 0
    process.communicate(timeout=300)
    assert is_gone(group)


def test_unused_files_go_and_used_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    for folder in ("trees/used", "trees/old", "trees/fresh", "runs/old"):
        (tmp_path / folder).mkdir(parents=True)
    long_ago = time.time() - board.KEEP_S - 60
    for path in ("trees/used", "trees/old", "runs/old"):
        os.utime(tmp_path / path, (long_ago, long_ago))
    board.prepare(["used", "new"])
    assert {path.name for path in (tmp_path / "trees").iterdir()} == {"used", "fresh", "new"}
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_store_that_pythonpath_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(board.BoardError, match="DHOX_REMOTE_CACHE"):
        board.probe()


def test_a_killed_watcher_takes_its_bench_along_and_keeps_the_machine_until_then(tmp_path: Path) -> None:
    tidy = ["bash", "-c", "trap 'sleep 1; exit' INT; echo $$; while true; do sleep 0.05; done"]
    process = board_process(tmp_path, {}, tidy)
    group = group_of(process)
    process.kill()
    process.wait()
    assert is_held()
    end = time.monotonic() + 300
    while not is_gone(group):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not is_held()


def is_held() -> bool:
    """Whether somebody holds this machine's lock."""
    with socket.socket(socket.AF_UNIX) as other:
        return not board.take(other)


@pytest.mark.parametrize(
    ("patience", "end", "ended", "said"),
    [
        (60, lambda process: process.stdin.close(), board.END_OF_INPUT, False),
        (60, lambda process: process.terminate(), "signal 15", True),
        (1, lambda process: None, "silence", True),
    ],
)  # fmt: skip
def test_a_link_that_ends_while_another_bench_measures_is_answered(
    tmp_path: Path, patience: int, end: Callable[[subprocess.Popen[bytes]], None], ended: str, said: bool
) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = board_process(tmp_path, {}, ["touch", "started"], patience)
        assert process.stdout is not None
        assert b"waiting for its end" in process.stdout.readline()
        end(process)
        answers = [json.loads(line.removeprefix(board.MARK)) for line in process.stdout]
        process.wait(60)
    assert answers[-1] == {"status": board.INTERRUPTED, "ended": ended}
    assert [ended in one["out"] for one in answers[:-1]] == [True] * said
    assert list(tmp_path.rglob("started")) == []


def test_what_holds_the_machine_runs_benches_that_do_not_wait(tmp_path: Path) -> None:
    code = "from dhox.bench.machine_lock import one_at_a_time\nwith one_at_a_time():\n    print('mine', flush=True)"
    process = board_process(tmp_path, {int(n): s for n, s in board.GRACE_S.items()}, [sys.executable, "-c", code])
    assert process.stdout is not None
    first = json.loads(process.stdout.readline().removeprefix(board.MARK))
    process.communicate(timeout=300)
    assert first == {"out": "mine"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"DHOX_REMOTE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/dhox"),
        ({"HOME": "/c"}, "/c/.cache/dhox"),
    ],
)
def test_where_the_store_is(variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DHOX_REMOTE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert board.store() == Path(place)

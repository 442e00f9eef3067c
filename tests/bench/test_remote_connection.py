"""A connection to a board, against a real sshd on this machine: logins, commands, copies."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import loopback
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import NASTY, held, wait_until
from refusals import refuses

from dhox.artefacts.remote import Remote
from dhox.bench.remote import link as board_link
from dhox.bench.remote import ssh
from dhox.bench.remote.board import MARK
from dhox.bench.remote.link import Board
from dhox.bench.remote.results import bring
from dhox.bench.remote.rsync import pull, push
from dhox.bench.remote.ssh import Connection

pytestmark = pytest.mark.sshd

OPEN = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANSWER, COPY = "bench.remote.link.answer", "bench.remote.rsync._transfer"


def test_silence_ends_a_command_though_the_connection_stands(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(board_link, "PATIENCE_S", 3.0)
    monkeypatch.setattr(board_link, "HEARTBEAT_S", 1000.0)
    with Board("board", python) as there:
        start = time.monotonic()
        status = there.run(["sleep", "100"], {}, "silence", print)
        assert status == -signal.SIGINT  # its own end would be 0
        assert time.monotonic() - start > 2.9


def test_silence_while_another_bench_measures_is_said(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(board_link, "PATIENCE_S", 1.0)
    monkeypatch.setattr(board_link, "HEARTBEAT_S", 1000.0)
    with socket.socket(socket.AF_UNIX) as holder, Board("board", python) as there:
        wait_until(lambda: held(holder, board), 300)
        lines: list[str] = []
        assert there.run(["sleep", "100"], {}, "never", lines.append) == board_link.INTERRUPTED
    assert "waiting" in lines[0]
    assert "silence" in lines[-1]


@OPEN
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_words_arrive_as_they_are(open_board: Board, words: list[str]) -> None:
    session = open_board.connection.start("printf", "%s\\0", *words)
    arrived = session.stdout.read().split(b"\0")[:-1]
    session.end()
    assert arrived == ([word.encode() for word in words] or [b""])


def test_arguments_of_a_command_arrive_as_they_are(open_board: Board, python: str) -> None:
    words = [*NASTY, "$HOME", "--", "-oProxyCommand=touch x", "~", ""]
    lines: list[str] = []
    open_board.run(
        [python, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words], {}, "words", lines.append
    )
    assert json.loads(lines[-1]) == words


def test_a_broken_copy_goes_on_where_it_ended(open_board: Board, board: loopback.Loopback) -> None:
    for number in range(20):
        Path(f"folder/{number}").parent.mkdir(exist_ok=True)
        Path(f"folder/{number}").write_bytes(f"part {number}".encode() * 500_000)
    there = board.store / "broken copy"
    seen: list[int] = []

    def breaking(count: int) -> None:
        seen.append(count)
        if len(seen) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(open_board.connection, Path("folder"), str(there), breaking)
    whole = {path.name: path.read_bytes() for path in Path("folder").iterdir()}
    wait_until(lambda: not list(there.glob(".*")))  # no half of a file stays
    assert all(whole[path.name] == path.read_bytes() for path in there.iterdir())
    files, _ = push(open_board.connection, Path("folder"), str(there), seen.append)
    assert 0 < files < 20
    assert {path.name: path.read_bytes() for path in there.iterdir()} == whole


def test_a_command_that_looks_keeps_its_errors_apart(open_board: Board, python: str) -> None:
    code = "import os, sys; print('out'); print('a warning', file=sys.stderr); sys.exit(len(os.environ['X']))"
    assert open_board.look([python, "-c", code], {"X": "xx"}) == (2, b"out\n", "a warning\n")


def test_results_stay_on_the_board_until_they_are_forgotten(
    open_board: Board, board: loopback.Loopback, tmp_path: Path
) -> None:
    run = board.store / "runs/abc"
    (run / "bench").mkdir(parents=True)
    (run / "bench/bench.json").write_text('{"finished_at": "2026"}')
    (run / "bench/samples.npz").write_bytes(b"samples")
    (run / "bench/.bashrc").write_text("touch x")
    (run / "bench/predictions.csv").symlink_to("/etc/passwd")
    (run / "elsewhere").mkdir()
    (run / "elsewhere/bench.json").write_text("{}")
    (tmp_path / "came").mkdir()
    pull(open_board.connection, str(run), tmp_path / "came")
    came = {path.relative_to(tmp_path / "came").as_posix() for path in (tmp_path / "came").rglob("*")}
    assert came == {"bench", "bench/bench.json", "bench/samples.npz"}
    remote = Remote(host="board", python="python3", probe=open_board.probe(), paths={})
    with refuses("bench.json", "`device_asked`", at="bench.remote.results.read_content"):
        bring(open_board, str(run), tmp_path / "out", remote, False)
    assert (run / "bench/samples.npz").exists()
    assert not (tmp_path / "out").exists()
    open_board.forget(str(run))
    assert not run.exists()


@pytest.mark.parametrize(
    ("answer", "fact", "fix"),
    [
        (b"[1]", "`object`", "login shell"),
        (b"[" * 3000, "nested", "login shell"),
        (b'{"host": 1}', "`$.host`", "login shell"),
        (b'{"host": NaN}', "JSON", "login shell"),
        (b"damaged", "JSON", "login shell"),
        (b'{"error": {"reason": "\\u001b[31mred.", "fix": "Mend it."}}', "\ufffd[31mred.", "Mend it."),
    ],
)
def test_an_answer_that_no_dhox_gives_is_one_message(
    board: loopback.Loopback, environment: dict[str, str], python: str, answer: bytes, fact: str, fix: str
) -> None:
    liar = board.folder / "liar"
    (board.folder / "answer").write_bytes(MARK + answer + b"\n")
    liar.write_text(f"#!/bin/sh\ncat '{board.folder}/answer'\nexec cat > /dev/null\n")
    liar.chmod(0o755)
    with Board("board", str(liar)) as there, refuses("board", fact, at=ANSWER, fix=fix) as caught:
        there.probe()
    assert str(caught.value).isprintable()


def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = loopback.start(tmp_path / "sshd")
    board.store.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", board.store], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip("no small disk can be mounted here: needs root")
        monkeypatch.setenv("DHOX_SSH", board.environment["DHOX_SSH"])
        Path("folder").mkdir()
        Path("folder/a").write_bytes(bytes(500_000))
        Path("folder/b").write_bytes(b"b" * 4_000_000)
        with Board("board", python) as there, refuses("No space left on device", at=COPY, fix="DHOX_REMOTE_CACHE"):
            push(there.connection, Path("folder"), str(board.store), lambda count: None)
        assert {path.name: path.stat().st_size for path in board.store.iterdir()} == {"a": 500_000}
    finally:
        loopback.stop(board)
        subprocess.run(["umount", board.store], capture_output=True, check=False)


def test_where_rsync_is_missing_it_is_said(
    board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = tmp_path / "without rsync"
    without.write_text(f'#!/bin/sh\nPATH=/nowhere exec {shlex.quote(python)} "$@"\n')
    without.chmod(0o755)
    with Board("board", str(without)) as there, refuses("board", "rsync", at=ANSWER, fix="apt install rsync"):
        there.prepare([])
    with Board("board", python) as there:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with refuses("rsync", at=COPY, fix="apt install rsync"):
            push(there.connection, tmp_path, str(board.store), lambda count: None)


@pytest.mark.parametrize(
    ("options", "said", "fix"),
    [
        ({"HostName": "no-such-host.invalid"}, "no-such-host.invalid", "~/.ssh/config"),  # ssh's own words, or a name
        ({"Port": 1}, "Connection refused", "sshd"),
        ({"IdentityFile": "/nowhere"}, "Permission denied", "ssh-copy-id board"),
        ({"UserKnownHostsFile": "/dev/null"}, "host key", "ssh"),
        ({"UserKnownHostsFile": "OTHER"}, "host key", "ssh-keygen -R board"),
        ({"NoSuchOption": "yes"}, "bad configuration options", "ssh board"),
        ({"ProxyCommand": "false"}, "login", "ssh board"),
        ({"ProxyCommand": "echo HTTP/1.1 400 Bad Request"}, "login", "ssh board"),
        ({"ProxyCommand": "sleep 30"}, "timed out", "network"),
    ],
)  # fmt: skip
def test_a_login_that_fails_says_why(
    board: loopback.Loopback,
    options: dict[str, Any],
    said: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if options.get("UserKnownHostsFile") == "OTHER":
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{board.port} {loopback.key(tmp_path / 'other')}")
        options = {"UserKnownHostsFile": known}
    monkeypatch.setenv("DHOX_SSH", board.configure("failing", **options))
    silent = options.get("ProxyCommand") == "sleep 30"
    monkeypatch.setitem(ssh.OPTIONS, "ConnectTimeout", "1" if silent else "300")
    with refuses("board", said, at="bench.remote.ssh", fix=fix) as caught, Connection("board"):
        pass
    assert ("ssh-keygen" in str(caught.value)) == ("ssh-keygen" in fix)
    assert "\n" not in str(caught.value)
    assert "\N{REPLACEMENT CHARACTER}" not in str(caught.value)


def test_a_board_without_a_python_that_dhox_can_use(board: loopback.Loopback, environment: dict[str, str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    missing = refuses("board", "no such python", at=ANSWER, fix=("apt install python3", "--remote-python"))
    with Board("board", "no such python") as there, missing:
        there.probe()
    silent = refuses("board", "echo", at=ANSWER, fix=("ssh board echo -V", "--remote-python"))
    with Board("board", "echo") as there, silent:
        there.probe()
    monkeypatch.setattr(board_link, "CHECK", board_link.CHECK.replace("(3, 10)", "(9, 9)"))
    # Python 2 knows no -X.
    old = board.folder / "old python"
    refusal = "echo \"(Try 'python -h' for more information.)\" >&2; exit 2"
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {{ {refusal}; }}\nexec {shlex.quote(python)} "$@"\n')
    old.chmod(0o755)
    for path in (str(old), python):
        with Board("board", path) as there, refuses("board", path, "3.10", at=ANSWER, fix="--remote-python"):
            there.probe()


def test_odd_folders_for_temporary_files(board: loopback.Loopback, environment: dict[str, str], python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name in ("a b %h", "long" * 30):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        with Board("board", python) as there:
            socket = there.connection.folder / "s"
            assert socket.is_socket()
            assert there.probe().system == "Linux"
        assert not socket.exists()


def test_a_login_shell_that_greets_is_named(
    board: loopback.Loopback, environment: dict[str, str], python: str, tmp_path: Path
) -> None:
    def copied() -> tuple[int, int]:
        with Board("board", python) as there:
            assert there.probe().system == "Linux"
            return push(there.connection, tmp_path, str(board.store / "greeted"), lambda count: None)

    try:
        (board.home / ".bashrc").write_text("echo to the board >&2\n")
        assert copied() == (0, 0)
        (board.home / ".bashrc").write_text("echo Welcome\n")
        with refuses("board", "rsync", at=COPY, fix="~/.bashrc"):
            copied()
    finally:
        (board.home / ".bashrc").unlink()

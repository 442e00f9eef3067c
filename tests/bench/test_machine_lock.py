"""Benches of one machine take turns, however they were started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from plain_files import read_json

from dhox.artefacts.files import BENCH_FILE
from dhox.bench.machine_lock import one_at_a_time
from dhox.bench.remote import board

DHOX = Path(sys.executable).with_name("dhox")
QUICK = ("--device", "cpu", "--precision", "fp32", "--batch", "1", "--scope", "e2e", "--duration", "0.05")
WAITS = "Another dhox bench measures on this machine: waiting for its end (Ctrl-C gives up).\n"


def begin(line: Path, *more: str) -> subprocess.Popen[str]:
    """A bench that says that it waits."""
    words = [str(DHOX), "bench", str(line / "runs/tiny/export"), *QUICK, "--energy", "0", "--out", "bench", *more]
    wide = os.environ | {"COLUMNS": "200"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=wide)
    assert process.stdout is not None
    assert process.stdout.readline() == WAITS
    return process


def is_free() -> bool:
    with socket.socket(socket.AF_UNIX) as other:
        return board.take(other)


def test_a_bench_waits_for_another_ones_end(line: Path) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = begin(line)
        assert list(Path().iterdir()) == []
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert read_json(Path("bench") / BENCH_FILE)["status"] == "complete"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_gives_up_waiting_gets_one_message_and_no_files(line: Path, number: signal.Signals) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = begin(line)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (said.count("\n"), said.startswith("Error: ")) == (1, True)
    assert list(Path().iterdir()) == []


def test_the_machine_is_held_by_the_outermost_block_until_its_end() -> None:
    with one_at_a_time():
        with one_at_a_time():
            assert not is_free()
        assert not is_free()
    assert is_free()


def test_the_lock_has_a_name_and_may_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_at_a_time():
        monkeypatch.setenv(board.LOCK, "another" * 100)
        assert is_free()
        monkeypatch.setenv(board.LOCK, "")
        with one_at_a_time(), one_at_a_time():
            assert is_free()

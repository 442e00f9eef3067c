"""A board on this machine, its Python, and a first bench on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest
from loopback import NASTY, QUICK, dhox_command

from dhox.bench.remote.link import Board

NOT_FETCHED = "could not be fetched here"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    found = loopback.start(tmp_path_factory.mktemp("sshd"))
    yield found
    loopback.stop(found)


@pytest.fixture(scope="module")
def python(board: loopback.Loopback) -> str:
    """The board's Python: another version than ours where one is at hand, in an environment without a package."""
    for name in ("python3.12", "python3.10", "python3.13", sys.executable):
        found = subprocess.run([name, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False) if shutil.which(name) else None  # fmt: skip
        if found is not None and found.returncode == 0:
            folder = board.folder / "board's python"
            subprocess.run([found.stdout.strip(), "-m", "venv", "--without-pip", folder], check=True)
            return str(folder / "bin/python")
    raise AssertionError


@pytest.fixture
def environment(board: loopback.Loopback, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in board.environment.items():
        monkeypatch.setenv(name, value)
    return {**os.environ}


def pip_cache() -> dict[str, str]:
    """pip keeps its downloads from run to run, although the tests have a cache folder of their own."""
    words = [sys.executable, "-m", "pip", "cache", "dir"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return {"PIP_CACHE_DIR": done.stdout.strip()} if done.returncode == 0 else {}


def index_answers(folder: Path) -> bool:
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "wheel"), "packaging"]
    return subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def first(
    board: loopback.Loopback, python: str, line: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A copy of the line with nasty names among its test images, a doctor before, and a first bench of it there."""
    root = tmp_path_factory.mktemp("first")
    shutil.copytree(line, root / "line")
    images = sorted((root / "line/data/test/bag").iterdir())
    for image, name in zip(images, NASTY, strict=False):
        image.rename(image.with_name(name))
    export = root / "line/runs/tiny/export"
    words = ("--host", "board", "--remote-python", python)
    variables = os.environ | board.environment | pip_cache()
    shared = {"text": True, "capture_output": True, "check": False, "env": variables, "cwd": root}
    doctor = subprocess.run(dhox_command("doctor", *words, "--json"), **shared)
    bench = dhox_command("bench", export, *words, *QUICK, "--data", root / "line/data", "--out", root / "bench")
    done = subprocess.run(bench, **shared)
    if NOT_FETCHED in done.stderr:  # a download may break
        done = subprocess.run(bench, **shared)
    if NOT_FETCHED in done.stderr and not index_answers(root):
        pytest.skip(loopback.NO_INDEX)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"root": root, "export": export, "words": words, "doctor": doctor, "done": done, "bench": root / "bench"}


@pytest.fixture(scope="module")
def open_board(board: loopback.Loopback, python: str) -> Iterator[Board]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DHOX_SSH", board.environment["DHOX_SSH"])
        with Board("board", python) as there:
            yield there

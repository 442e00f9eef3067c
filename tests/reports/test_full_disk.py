"""A page that cannot be written costs nothing else: the results stand, and so does their exit code."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from plain_files import read_json
from quick_distill import DEMO_TEACHER

from dhox.cli.main import main

SMALL = ["--student", "test_resnet", "--student-weights", "none", "--image-size", "28", "--epochs", "1", "--shots", "4"]
BENCH = ["--device", "cpu", "--duration", "0.05", "--energy", "0", "--batch", "1", "--out", "its place"]


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No space for pages."""
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if ".html." in path.name and "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    return monkeypatch


def said_by(capsys: pytest.CaptureFixture[str], code: str, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match=code):
        main(list(arguments))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out


def check_later(capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch, said: str, page: Path) -> None:
    """The page is missing, and the command that was printed writes it."""
    assert not page.exists()
    assert f"No {page.name}: Could not write" in said
    (line,) = [line for line in said.splitlines() if "The results stand" in line]
    command = shlex.split(line.partition("later: ")[2])
    no_space.undo()
    said_by(capsys, "0", *command[1:])
    assert page.stat().st_size > 1000


def test_of_a_training(line: Path, capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch) -> None:
    out = Path("its place").absolute()
    said = said_by(capsys, "0", "distill", str(line / "data"), "--teacher", DEMO_TEACHER, *SMALL, "--out", str(out))
    assert read_json(out / "run.json")["status"] == "complete"
    assert "Next: dhox export" in said
    check_later(capsys, no_space, said, out / "report.html")


def test_of_a_bench(line: Path, capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch) -> None:
    out = Path("its place").absolute()
    said = said_by(capsys, "0", "bench", str(line / "runs/tiny/export"), *BENCH[:-1], str(out))
    assert read_json(out / "bench.json")["status"] == "complete"
    check_later(capsys, no_space, said, out / "report.html")


def test_of_an_audit(line: Path, capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch) -> None:
    out = Path("its place").absolute()
    words = ["audit", str(line / "data"), "--teacher", DEMO_TEACHER, "--shots", "4", "--device", "cpu"]
    said = said_by(capsys, "0", *words, "--out", str(out))
    assert "Next: dhox distill" in said
    check_later(capsys, no_space, said, out / "audit.html")


@pytest.mark.slow
def test_of_a_sweep_that_fails_its_budget(capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch) -> None:
    out = Path("its place").absolute()
    words = ["sweep", "--students", "test_resnet", "--image-size", "32", "--classes", "4", "--device", "cpu"]
    words += ["--candidates", str(out.with_name("c")), "--duration", "0.05", "--energy", "0"]
    said = said_by(capsys, "3", *words, "--budget", "1us", "--out", str(out))
    check_later(capsys, no_space, said, out / "sweep.html")


def test_of_a_run_whose_page_lies_on_a_full_disk(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    (run / f".report.html.{os.getpid()}.tmp").symlink_to("/dev/full")
    said = said_by(capsys, "0", "retune", str(run), "--alpha", "0.5", "--beta", "1")
    assert "No space left on device" in said
    assert f"later: dhox report {run}" in said
    assert read_json(run / "selection.json")["alpha"] == 0.5


def test_a_page_that_is_asked_for_fails_its_command(
    own_line: Path, capsys: pytest.CaptureFixture[str], no_space: pytest.MonkeyPatch
) -> None:
    said_by(capsys, "1", "report", str(own_line / "runs/tiny"))

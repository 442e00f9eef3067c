"""A working folder that cannot be written: one message with the place, no traceback."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEACHER

PRIVATE = ["unshare", "--mount", "sh", "-c"]  # root may write anywhere but on a disk that is mounted to be read
READ_ONLY = "mount --bind . . && mount -o remount,bind,ro . && cd {} && exec {}"


def in_read_only(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing can be written; the test is skipped where that cannot be had."""
    command = list(words)
    if os.geteuid() == 0:
        if (
            shutil.which("unshare") is None
            or subprocess.run([*PRIVATE, READ_ONLY.format(".", "true")], cwd=folder).returncode
        ):
            pytest.skip("root, and no mount of its own")
        command = [*PRIVATE, READ_ONLY.format(shlex.quote(str(folder)), shlex.join(words))]
    folder.chmod(0o555)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "place", "advice"),
    [
        ("predict {line}/runs/tiny/export {line}/data/test/bag --csv a.csv", "a.csv", "another disk"),
        ("demo", "runs/demo", "--out"),
        pytest.param("audit {line}/data --out runs/a --teacher nowhere", "runs/a", "--out", marks=pytest.mark.slow),
        pytest.param(
            "distill {line}/data --method ce,kd --student test_resnet --student-weights none --image-size 28", "runs", "--out",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_read_only_is_one_message(
    line: Path, tmp_path: Path, words: str, place: str, advice: str
) -> None:
    teacher = ["--teacher", TEACHER] if "kd" in words else []
    done = in_read_only(tmp_path, sys.executable, "-m", "dhox", *words.format(line=line).split(), *teacher)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error: Could not" in done.stderr
    assert place in done.stderr
    assert advice in done.stderr
    assert not list(tmp_path.iterdir())

"""SIGKILL at any moment leaves the old state or the new, and the next command works (make test-slow)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dhox.files import RUN_FILE, RUN_SCHEMA, read_json

TEACHER = Path(__file__).parents[1] / "src/dhox/demo/teacher"
DHOX = Path(sys.executable).with_name("dhox")


def command(line: Path, *more: str) -> list[str]:
    return [
        str(DHOX), "distill", str(line / "data"), "--teacher", f"local-dir:{TEACHER}", "--student", "test_resnet",
        "--student-weights", "none", "--image-size", "28", "--epochs", "40", "--shots", "4", "--out", "run", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_trainings_never_damage_the_finished_run(line: Path) -> None:
    start = time.monotonic()
    subprocess.run(command(line, "--seed", "0"), check=True, capture_output=True)
    whole = time.monotonic() - start
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            command(line, "--seed", "1", "--overwrite"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.3, 0.95) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_json(Path("run") / RUN_FILE, RUN_SCHEMA)["status"] == "complete"
    done = subprocess.run([DHOX, "export", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run(command(line, "--seed", "2", "--overwrite"), check=True, capture_output=True)
    assert read_json(Path("run") / RUN_FILE, RUN_SCHEMA)["training"]["seed"] == 2
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.slow
def test_a_first_training_that_is_killed_is_called_interrupted(line: Path) -> None:
    process = subprocess.Popen(command(line), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not Path("run.partial/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([DHOX, "export", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "training of run was interrupted" in done.stderr


@pytest.mark.slow
def test_random_bytes_as_images_are_named_and_never_crash(line: Path) -> None:
    from dhox.images import UnreadableImageError, decode

    random_bytes = random.Random(1)
    good = next((line / "data/train/bag").iterdir()).read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(3000):
        content = bytearray(good)
        for _ in range(random_bytes.randint(1, 8)):
            content[random_bytes.randrange(len(content))] = random_bytes.randrange(256)
        Path("x.png").write_bytes(
            content[: random_bytes.randint(1, len(content))] if random_bytes.random() < 0.3 else content
        )
        try:
            assert decode(Path("x.png")).mode == "RGB"
            outcomes["read"] += 1
        except UnreadableImageError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50

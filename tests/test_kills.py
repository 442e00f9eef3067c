"""SIGKILL at any moment leaves the old state or the new, and the next command works (make test-slow)."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plain_files import read_json
from refusals import named

from dhox.artefacts.files import RUN_FILE

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
        assert read_json(Path("run") / RUN_FILE)["status"] == "complete"
    done = subprocess.run([DHOX, "export", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run(command(line, "--seed", "2", "--overwrite"), check=True, capture_output=True)
    assert read_json(Path("run") / RUN_FILE)["training"]["seed"] == 2
    assert sorted(path.name for path in Path().iterdir()) == ["cache", "run"]


@pytest.mark.slow
def test_a_first_training_that_is_killed_is_called_interrupted(line: Path) -> None:
    process = subprocess.Popen(command(line), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not Path("run.partial/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert Path("run.partial/metrics.csv").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([DHOX, "export", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert named("run.partial", done.stderr)
    assert named("dhox distill", done.stderr)


def run_and_kill(arguments: list[str], moments: random.Random, whole: float) -> tuple[int, int]:
    """Run a command until it ends by itself, killing it at random moments before; (kills, last exit code)."""
    kills = 0
    while True:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait = moments.uniform(0.2, 1.3) * whole
        try:
            _, error = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, error.decode()
        return kills, process.returncode


@pytest.mark.slow
def test_trainings_killed_at_many_moments_resume_to_the_same_bits(line: Path) -> None:
    """Packing, caching and training die by SIGKILL; with --resume they end with the bits of an uninterrupted run."""

    def arguments(place: str) -> list[str]:
        return [*command(line, "--epochs", "150", "--views", "8", "--resume"), "--out", f"{place}/run"]

    start = time.monotonic()
    subprocess.run(arguments("whole"), check=True, capture_output=True)
    whole = time.monotonic() - start
    moments, kills, series = random.Random(1), 0, 0
    while kills < 25:
        shutil.rmtree("x", ignore_errors=True)
        more, _ = run_and_kill(arguments("x"), moments, whole)
        kills, series = kills + more, series + 1
        for name in ("student.safetensors", "val.npz", "test.npz", "selection.json"):
            assert Path("x/run", name).read_bytes() == Path("whole/run", name).read_bytes(), (kills, name)
        assert not Path("x/run.partial").exists()
    print(f"{kills} kills in {series} trainings of {whole:.1f} s")


@pytest.mark.slow
def test_caches_killed_at_many_moments_hold_whole_files_only(line: Path) -> None:
    from dhox.demo.data import write_image_folder
    from dhox.distill.teachers.cache_upkeep import entries

    write_image_folder(Path("data"))
    arguments = [
        str(DHOX), "cache", "data", "--teacher", f"local-dir:{TEACHER}", "--views", "8", "--packed-size", "28", "--cache",
    ]  # fmt: skip
    start = time.monotonic()
    subprocess.run([*arguments, "whole"], check=True, capture_output=True)
    whole = time.monotonic() - start
    moments, kills = random.Random(2), 0
    finished = False
    while kills < 8 or not finished:
        if finished:
            shutil.rmtree("x")
        process = subprocess.Popen([*arguments, "x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.3, 0.8) * whole if kills < 8 else None)
            assert process.returncode == 0
            finished = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, finished = kills + 1, False
        if list(Path("x").glob("*/shards.json")):
            assert not any(entry.damaged for entry in entries(Path("x"), checksums=True))
    held = [sorted((e.folder.name, e.images) for e in entries(Path(place), checksums=True)) for place in ("whole", "x")]
    assert held[0] == held[1]
    print(f"{kills} kills of a caching pass of {whole:.1f} s")


@pytest.mark.slow
def test_random_bytes_as_images_are_named_and_never_crash(line: Path) -> None:
    from dhox.data.images import UnreadableImageError, decode

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

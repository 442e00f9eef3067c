"""Ctrl-C and its kin at any moment: exit code 130, no traceback, and what was kept with the command that follows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_files import read_json
from quick_distill import DEMO_TEACHER

import dhox.demo.run as demo_module
import dhox.distill.training.train as train_module
from dhox.cli.main import main

DHOX = Path(sys.executable).with_name("dhox")
SMALL = (
    "--student",
    "test_resnet",
    "--student-weights",
    "none",
    "--image-size",
    "28",
    "--shots",
    "4",
    "--device",
    "cpu",
    "--batch-unlabelled",
    "192",
)
# At the import of MODULE, leaves a file `begun` or gets the signal: neither depends on how fast this machine is.
HOOK = """
import os, pathlib, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MODULE"]:
            if "SIGNAL" in os.environ:
                os.kill(os.getpid(), int(os.environ["SIGNAL"]))
            pathlib.Path("begun").touch()
sys.meta_path.insert(0, Hook())
"""


def start(module: str, *arguments: str, number: int | None = None) -> subprocess.Popen[str]:
    """The installed command with HOOK."""
    hook = Path("hook").absolute()
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    environment = os.environ | {"PYTHONPATH": str(hook), "MODULE": module}
    if number is not None:
        environment["SIGNAL"] = str(int(number))
    return subprocess.Popen(
        [DHOX, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(process: subprocess.Popen[str], there: Callable[[], Any]) -> None:
    """Wait until something is there, or the process has ended."""
    deadline = time.monotonic() + 300
    while not there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> str:
    """The last line on standard error of a command that was interrupted."""
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "Interrupted" in error.splitlines()[-1]
    return error.splitlines()[-1]


def interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command in this process says that a KeyboardInterrupt ends."""
    monkeypatch.setattr(sys, "argv", ["dhox", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="130"):
        main(list(arguments))
    return capsys.readouterr().err


def stopped(*arguments: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "number"),
    [("dhox.cli.main", signal.SIGINT), ("msgspec", signal.SIGINT), ("typer", signal.SIGTERM), ("rich.console", signal.SIGHUP)],
)  # fmt: skip
def test_at_start_up(module: str, number: signal.Signals) -> None:
    said = ended(start(module, "doctor", "--host", "a b", number=number))
    assert shlex.split(said)[-4:] == ["dhox", "doctor", "--host", "a b"]


@pytest.mark.parametrize(
    "module", ["numpy._core._multiarray_umath", "torch.nn", pytest.param("timm", marks=pytest.mark.slow)]
)
def test_while_a_command_imports_its_libraries(module: str) -> None:
    Path("data").mkdir()
    said = ended(start(module, "distill", "data", "--out", "x", number=signal.SIGINT))
    assert shlex.split(said)[-5:] == ["dhox", "distill", "data", "--out", "x"]


@pytest.mark.parametrize("delay", [0, 0.05, 0.4, 1.5])
def test_at_any_time_after_the_start(delay: float) -> None:
    Path("empty").mkdir()
    process = start("dhox.cli.main", "distill", "empty", "--teacher", DEMO_TEACHER)
    wait_for(process, Path("begun").exists)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert "Traceback" not in error
    assert (process.returncode, "Interrupted" in error) in {(130, True), (1, False)}  # 1: DATA holds no image


@pytest.mark.slow
def test_a_training_goes_on_by_the_command_that_is_printed(line: Path) -> None:
    words = ["distill", str(line / "data"), "--teacher", DEMO_TEACHER, *SMALL, "--epochs", "25", "--out", "my run"]
    process = start("none", *words)
    wait_for(process, Path("my run.partial/checkpoint/checkpoint.safetensors").exists)
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert "my run.partial holds the last checkpoint" in said
    command = shlex.split(said.partition("continue with: ")[2])
    assert command == ["dhox", *words, "--resume"]
    done = subprocess.run([DHOX, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_json(Path("my run/run.json"))["status"] == "complete"
    assert not Path("my run.partial").exists()


def test_an_export_leaves_nothing(line: Path) -> None:
    process = start("none", "export", str(line / "runs/tiny"), "--out", "e")
    wait_for(process, Path("e.partial").exists)
    process.send_signal(signal.SIGTERM)
    assert "Nothing was written" in ended(process)
    assert sorted(path.name for path in Path().iterdir()) == ["hook"]


@pytest.mark.slow
def test_a_cache_keeps_what_was_embedded(line: Path) -> None:
    words = [
        "cache",
        str(line / "data"),
        "--teacher",
        DEMO_TEACHER,
        "--cache",
        "c",
        "--views",
        "300",
        "--device",
        "cpu",
    ]
    process = start("none", *words, "--packed-size", "0")
    wait_for(process, lambda: any(Path("c").glob("*/shards.json")))
    process.send_signal(signal.SIGINT)
    said = ended(process)
    kept = bool(list(Path("c").glob("*/*.safetensors")))
    assert ("kept in c" in said) is kept
    assert ("Nothing was embedded" in said) is not kept
    assert shlex.split(said.partition("rest: ")[2]) == ["dhox", *words, "--packed-size", "0"]


def test_without_a_checkpoint_none_is_promised(
    line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", str(line / "data"), "--teacher", DEMO_TEACHER, *SMALL, "--epochs", "2", "--out", "x")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", stopped)
        said = interrupted(capsys, monkeypatch, *words)
    assert "no checkpoint" in said
    assert "--resume" not in said
    assert not Path("x.partial").exists()


def test_a_checkpoint_of_another_training_is_not_promised(
    line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", str(line / "data"), "--teacher", DEMO_TEACHER, *SMALL, "--epochs", "2", "--out", "x")
    real = train_module.learning_rate_at

    def late(step: int, *rest: Any) -> float:
        return stopped() if step == 1 else real(step, *rest)

    monkeypatch.setattr(train_module, "learning_rate_at", late)
    assert "continue with: dhox distill" in interrupted(capsys, monkeypatch, *words)
    monkeypatch.setattr("dhox.distill.run.list_images", stopped)
    assert "continue with: dhox distill" in interrupted(capsys, monkeypatch, *words)
    assert "no checkpoint" in interrupted(capsys, monkeypatch, *words, "--seed", "1")


def test_a_comparison_says_how_many_trainings_it_keeps(
    line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", str(line / "data"), "--teacher", DEMO_TEACHER, *SMALL, "--epochs", "1", "--out", "x")
    words = (*words, "--method", "dho,ce")
    real = train_module.train

    def second(fabric: Any, student: Any, job: Any, *rest: Any) -> None:
        return stopped() if job.options.methods == ["ce"] else real(fabric, student, job, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("dhox.distill.run.train", stopped)
        assert "No training is finished" in interrupted(capsys, patch, *words)
    with monkeypatch.context() as patch:
        patch.setattr("dhox.distill.run.train", second)
        said = interrupted(capsys, patch, *words)
    assert "1 trainings in x are finished" in said
    command = shlex.split(said.strip().partition("continue with: ")[2])
    assert command == ["dhox", *words, "--resume"]
    with pytest.raises(SystemExit, match="0"):
        main(command[1:])
    assert read_json(Path("x/comparison.json"))["status"] == "complete"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("dhox.distill.auditing.audit.audit", ["audit", "d"]),
        ("dhox.distill.students.import_dho.import_dho", ["import-dho", "f.pt", "--arch", "resnet18", "--classes", "imagenet"]),
        ("dhox.distill.results.retune.retune", ["retune", "r"]),
        ("dhox.bench.run.bench", ["bench", "e"]),
        ("dhox.bench.sweep.run.sweep", ["sweep", "--students", "resnet18"]),
        ("dhox.doctor.board.examine_board", ["doctor", "--host", "orin"]),
        ("dhox.demo.run.run_demo", ["demo"]),
    ],
)  # fmt: skip
def test_other_commands_say_how_to_run_them_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, words: list[str]
) -> None:
    Path("d").mkdir()
    monkeypatch.setattr(place, stopped)
    said = interrupted(capsys, monkeypatch, *words)
    again = shlex.split(re.findall(r"dhox .*", said)[0])
    assert again[: len(words) + 1] == ["dhox", *words]


@pytest.mark.slow
def test_an_export_that_was_written_says_what_is_left(
    own_line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(own_line / "runs/tiny")
    shutil.rmtree(own_line / "runs/tiny/export")
    with monkeypatch.context() as patch:
        patch.setattr("dhox.export.integrations.emit.emit", stopped)
        said = interrupted(capsys, patch, "export", run, "--emit", "triton")
    assert f"{run}/export is whole" in said
    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(said.strip().partition("the rest: ")[2])[1:])
    assert (own_line / "runs/tiny/export/triton").is_dir()


def test_the_demo_waits_for_the_command_that_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path("python")
    script.write_text(
        "#!/bin/sh\ntrap 'sleep 0.3; touch ended; exit 130' TERM\ntouch begun\nwhile :; do sleep 0.1; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script.absolute()))
    monkeypatch.setattr(demo_module, "GRACE_S", 0.1)

    def interrupt() -> None:
        while not Path("begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)  # to it alone

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        demo_module._run_command("distill")
    assert Path("ended").exists()

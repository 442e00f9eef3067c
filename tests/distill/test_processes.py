"""Training by several processes (torchrun, gloo) equals training by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import loopback
import numpy as np
import pytest
import torch
from plain_files import read_json
from refusals import named, refuses
from safetensors.numpy import load_file

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import COMPARISON_FILE, RUN_FILE
from dhox.distill.processes import per_process, told_of_lost_processes
from dhox.distill.students.student import create_backbone, with_heads

TEACHER = Path(__file__).parents[2] / "src/dhox/demo/teacher"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def torchrun(processes: int, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m",
        "dhox", *arguments,
    ]  # fmt: skip


def trained(processes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """One process as everybody starts it, several by torchrun."""
    command = torchrun(processes, *arguments) if processes > 1 else [sys.executable, "-m", "dhox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False, timeout=600)


def training(data: Path, out: str, *more: str) -> list[str]:
    """20 steps of a student with LayerNorm and no BatchNorm; batches that 1, 2 and 3 divide.

    The bias of the keys has no gradient but rounding, which AdamW scales to whole steps: hence the small learning rate.
    """
    return [
        "distill", str(data), "--teacher", f"local-dir:{TEACHER}", "--student", "test_vit", "--student-weights", "none",
        "--image-size", "32", "--shots", "8", "--epochs", "10", "--batch-labelled", "12", "--batch-unlabelled", "48",
        "--views", "2", "--learning-rate", "3e-5", "--out", out, *more,
    ]  # fmt: skip


def student_before_training() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    backbone, _ = create_backbone("test_vit", "none", 32)
    return {name: tensor.numpy() for name, tensor in with_heads(backbone, 32, 4, True).state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_as_one(line: Path, processes: int) -> None:
    for count in (1, processes):
        done = trained(count, training(line / "data", f"runs/{count}"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("Next: dhox export") == 1
    one = load_file("runs/1/student.safetensors")
    start = student_before_training()
    assert np.median([np.abs(one[name] - start[name]).max() for name in one]) > 2e-4
    first = read_json(Path("runs/1") / RUN_FILE)
    assert first["training"]["epochs"] * first["training"]["epoch_steps"] == 20
    other = load_file(f"runs/{processes}/student.safetensors")
    assert max(np.abs(one[name] - other[name]).max() for name in one) < 1e-5
    summary = read_json(Path(f"runs/{processes}") / RUN_FILE)
    assert summary["training"]["processes"] == processes
    assert summary["sets"] == first["sets"]
    for split in ("val", "test"):
        a, b = read_npz(Path(f"runs/1/{split}.npz")), read_npz(Path(f"runs/{processes}/{split}.npz"))
        assert (a["names"] == b["names"]).all()
        assert (a["labels"] == b["labels"]).all()
        assert (a["teacher_predictions"] == b["teacher_predictions"]).all()
        np.testing.assert_allclose(a["ce_logits"], b["ce_logits"], atol=1e-4)
    assert not list(Path("runs").glob("*.partial"))


@pytest.mark.slow
def test_several_processes_fill_one_cache(line: Path) -> None:
    arguments = [
        "cache", str(line / "data"), "--cache", "c", "--teacher", f"local-dir:{TEACHER}", "--views", "2", "--packed-size", "28",
    ]  # fmt: skip
    done = trained(3, arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    from dhox.distill.teachers.cache_upkeep import entries

    found = {entry.folder.name.split("-")[-1]: entry for entry in entries(Path("c"), checksums=True)}
    assert {name: entry.images for name, entry in found.items()} == {"2views": 96, "whole": 128, "28": 96}
    assert not any(entry.damaged for entry in found.values())


@pytest.mark.slow
def test_several_processes_compare_methods(line: Path) -> None:
    done = trained(2, training(line / "data", "runs/c", "--method", "dho,kd", "--epochs", "1"))
    assert done.returncode == 0, done.stdout + done.stderr
    content = read_json(Path("runs/c") / COMPARISON_FILE)
    assert content["status"] == "complete"
    assert {row["method"] for row in content["rows"]} == {"teacher", "dho", "kd"}


@pytest.mark.slow
def test_when_one_process_dies_the_others_say_so_and_stop(line: Path) -> None:
    """Two processes without torchrun's watchman: the survivor must notice by itself."""
    environment = ONE_THREAD | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(loopback.free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
    }  # fmt: skip
    arguments = training(line / "data", "runs/x", "--epochs", "2000")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dhox", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    deadline = time.monotonic() + 300
    while not Path("runs/x.partial/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert Path("runs/x.partial/metrics.csv").exists()
    processes[1].send_signal(signal.SIGKILL)
    _, error = processes[0].communicate(timeout=300)
    processes[1].wait()
    assert processes[0].returncode == 1
    (said,) = [words for words in error.splitlines() if words.startswith("Error: ")]
    assert all(named(fact, said) for fact in (2, "gloo", "--resume")), said
    assert "Traceback" not in error
    assert Path("runs/x.partial/checkpoint/checkpoint.safetensors").exists()


def test_batches_are_at_most_a_pass_and_divide() -> None:
    assert per_process("--b", 64, 1000, 1) == 64
    assert per_process("--b", 64, 10, 1) == 10
    assert per_process("--b", 64, 10, 4) == 12
    assert per_process("--b", 64, 0, 4) == 0
    with refuses("--b 64", 3, at="distill.processes.per_process", fix=(3,)):
        per_process("--b", 64, 1000, 3)


def test_only_lost_collectives_become_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refuses(2, "gloo", at="distill.processes.told_of_lost_processes", fix="--resume"), told_of_lost_processes():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shape"), told_of_lost_processes():
        raise RuntimeError("shape mismatch")
    with pytest.raises(torch.OutOfMemoryError), told_of_lost_processes():
        raise torch.OutOfMemoryError("gloo")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError, match="gloo"), told_of_lost_processes():
        raise RuntimeError("gloo")

"""--resume: an interrupted training goes on and ends with the bits of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from quick_distill import quick, without
from refusals import refuses

import dhox.distill.training.train as train_module
from dhox.artefacts.files import sha256

CASE: dict[str, Any] = {"shots": 4, "epochs": 5, "student": "test_vit", "image_size": 32, "probe_gradients": 4}


class KilledError(Exception):
    """Stands for the process dying."""


def dying_at(step: int) -> Callable[..., float]:
    real = train_module.learning_rate_at

    def learning_rate_at(here: int, *rest: Any) -> float:
        if here == step:
            raise KilledError
        return real(here, *rest)

    return learning_rate_at


@pytest.mark.parametrize("step", [3, 14, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 2, 4))])
def test_a_resumed_training_ends_with_the_same_bits(line: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    quick(line / "data", "runs/whole", **CASE)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", dying_at(step))
        with pytest.raises(KilledError):
            quick(line / "data", "runs/x", **CASE)
    assert Path("runs/x.partial").exists()
    result = quick(line / "data", "runs/x", resume=True, **CASE)
    for name in ("student.safetensors", "val.npz", "test.npz", "metrics.csv", "gradients.csv", "selection.json"):
        assert sha256(Path("runs/x", name)) == sha256(Path("runs/whole", name)), name
    assert result.summary.status == "complete"
    assert not Path("runs/x/checkpoint").exists()
    assert not Path("runs/x.partial").exists()


def test_without_resume_it_starts_again(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", dying_at(8))
        with pytest.raises(KilledError):
            quick(line / "data", **CASE)
    seen: list[int] = []
    real = train_module.learning_rate_at
    monkeypatch.setattr(train_module, "learning_rate_at", lambda step, *rest: seen.append(step) or real(step, *rest))
    quick(line / "data", **CASE)
    assert seen == list(range(15))


def test_resume_refuses_other_settings_and_knows_a_finished_run(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", dying_at(8))
        with pytest.raises(KilledError):
            quick(line / "data", **CASE)
    with refuses("--resume", "weight_decay", 0.01, 0.5, at="distill.resume.earlier_state", fix="--resume"):
        quick(line / "data", resume=True, weight_decay=0.5, **CASE)
    first = quick(line / "data", resume=True, workers=1, **CASE)
    again = quick(line / "data", resume=True, **CASE)
    assert "nothing is left to resume" in capsys.readouterr().out
    assert again.summary == first.summary


def test_a_damaged_checkpoint_is_an_error(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", dying_at(8))
        with pytest.raises(KilledError):
            quick(line / "data", **CASE)
    path = Path("runs/x.partial/checkpoint/checkpoint.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with refuses("checkpoint.safetensors", at="distill.training.checkpoint.load_checkpoint", fix="--resume"):
        quick(line / "data", resume=True, **CASE)


def test_resume_refuses_other_images(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = without(line / "data")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "learning_rate_at", dying_at(8))
        with pytest.raises(KilledError):
            quick(data, **CASE)
    Image.new("RGB", (28, 28)).save(data / "train/bag/new.png")
    with refuses("checkpoint.safetensors", "DATA", at="distill.training.checkpoint", fix="--resume"):
        quick(data, resume=True, **CASE)

"""Before a training: a student that is not known to work is exported once, and refused where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from conftest import write_data
from quick_distill import DEMO_TEACHER, QUICK, quick
from refusals import refuses
from torch import nn

import dhox.export.trial as trial
from dhox import export
from dhox.artefacts.files import RUN_FILE, partial_directory
from dhox.artefacts.record import write_record
from dhox.artefacts.run import RunState, read_run
from dhox.cli.main import main
from dhox.distill.options import DistillOptions
from dhox.distill.options import Student as StudentOptions
from dhox.distill.run import distill
from dhox.errors import DhoxError
from dhox.export.graphs.known_students import is_known, known_students, nearest
from dhox.options.declare import build

WORKS, BRANCHES = "test_resnet", "dhox_branching"
MILLIONS = 8 / 1e6  # parameters of BRANCHES
OPTIONS = StudentOptions(student=BRANCHES, image_size=28)


class Branching(nn.Module):
    """Features that depend on the images by a Python branch, which no graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.pretrained_cfg = {"input_size": (3, 28, 28)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x).mean((2, 3))
        return z if z.sum() > 0 else -z


@timm.models.register_model
def dhox_branching(**_: object) -> nn.Module:
    return Branching()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trial") / "data"
    write_data(root)
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    said = capsys.readouterr()
    assert (end.value.code or 0) == code, said.err
    return " ".join((said.out + said.err).split())


def words(data: Path, student: str, size: int, *more: str) -> list[str]:
    return [
        "distill", str(data), "--teacher", DEMO_TEACHER, "--student", student, "--student-weights", "none", "--image-size",
        str(size), "--epochs", "1", "--batch-labelled", "8", "--batch-unlabelled", "32", "--views", "2", "--device", "cpu",
        "--log", "csv", *more,
    ]  # fmt: skip


def test_one_that_works_is_said_so_and_trained_as_without_the_trial(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_known(WORKS, 36)
    said = run(capsys, *words(data, WORKS, 36, "--out", "runs/tried"))
    assert f"Trying whether {WORKS} can be exported at 36 pixels" in said
    assert f"{WORKS} can be exported (" in said
    assert said.index("can be exported (") < said.index("Loading the models")
    plain = quick(data, "runs/plain", student=WORKS, image_size=36)
    assert read_run(Path("runs/tried")).files["student.safetensors"] == plain.summary.files["student.safetensors"]


def test_one_that_cannot_be_exported_is_refused_before_the_training(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(data, BRANCHES, 28, "--method", "ce", "--out", "runs/x")
    other = nearest(BRANCHES, 28, MILLIONS, known_students())
    assert other is not None
    with refuses(BRANCHES, 28, "data-dependent", at="export", fix=(other.name, "--no-export-check")):
        main(command)
    assert list(Path().iterdir()) == []
    assert "Trying whether" in capsys.readouterr().out
    assert "not tried (--no-export-check)" in run(capsys, *command, "--no-export-check", "--dry-run")
    assert "Trying" not in run(capsys, *command, "--no-export-check")
    with refuses("data-dependent", at="export.graphs.onnx_export.export_onnx", fix=other.name):
        export(Path("runs/x"))


def test_a_known_one_is_not_tried(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "try_export", pytest.fail)
    command = words(data, "test_resnet.r160_in1k", 28, "--method", "ce", "--out", "runs/x")
    said = run(capsys, *command, "--dry-run")
    assert "known to work" in said
    assert "can be exported" not in said


def test_a_training_that_goes_on_is_not_tried_again(data: Path) -> None:
    asked: list[str] = []
    options = QUICK | {"method": "ce", "teacher": DistillOptions().teacher.teacher}
    out = Path("runs/x")

    def train(**more: object) -> None:
        distill(data, out, build(DistillOptions, **options, **more), try_export=lambda: asked.append("asked"))

    train(resume=True)
    assert asked == ["asked"]  # nothing was there to go on from
    train(resume=True)
    settings = read_run(out).settings
    out.rename(partial_directory(out))
    write_record(partial_directory(out) / RUN_FILE, RunState(status="running", settings=settings))
    train(resume=True)
    assert read_run(out)
    assert asked == ["asked"]
    with refuses("runs/x", at="artefacts.files.check_output", fix="--overwrite"):
        main(words(data, BRANCHES, 28, "--out", "runs/x"))  # before anything is tried
    train(overwrite=True)
    assert asked == ["asked", "asked"]


def fails_by(error: BaseException, cause: BaseException | None = None) -> object:
    def export(*_: object) -> None:
        raise error from cause

    return export


def test_large_students_are_tried_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "export", fails_by(RuntimeError("no kernel")))
    monkeypatch.setattr(trial, "LARGEST_M", MILLIONS * 0.99)
    assert "--export-check" in trial.try_export(OPTIONS, two_heads=True).words
    assert "not tried" in capsys.readouterr().out
    with refuses(BRANCHES, at="export"):
        trial.try_export(OPTIONS, two_heads=True, large=True)
    monkeypatch.setattr(trial, "LARGEST_M", MILLIONS)
    with refuses(BRANCHES, at="export"):
        trial.try_export(OPTIONS, two_heads=True)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(OSError(28, "No space left"), None), (DhoxError("No space left.", "Free some."), OSError(28, "No space left"))],
)
def test_what_this_machine_lacks_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, cause: Exception | None
) -> None:
    monkeypatch.setattr(trial, "export", fails_by(error, cause))
    assert "No space left" in trial.try_export(OPTIONS, two_heads=False).words
    assert "could not be tried here" in capsys.readouterr().out


def test_an_error_of_a_library_is_a_refusal_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "export", fails_by(RuntimeError("no kernel")))
    with refuses("RuntimeError", "no kernel", at="export.trial", fix="--no-export-check"):
        trial.try_export(OPTIONS, two_heads=True)


@pytest.mark.slow
@pytest.mark.parametrize("kd_head", ["linear", "cosine-paper", "cosine-code"])
def test_a_clip_student_is_tried_with_its_head(kd_head: str) -> None:
    options = StudentOptions(student=f"open_clip:{DEMO_TEACHER}", kd_head=kd_head, init_heads="text")
    assert trial.try_export(options, two_heads=True).words == "works, tried"

"""Faults planted in a local teacher: one error that names the file, and the field where one is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import pytest
import torch
from quick_distill import DEMO_TEACHER
from safetensors.torch import load_file, save_file

from dhox.cli.main import main
from dhox.distill.students.clip_tower import load_tower
from dhox.distill.teachers.model_config import CONFIG_FILE, Model
from dhox.distill.teachers.teacher import load_teacher
from dhox.errors import DhoxError

CPU = torch.device("cpu")
SMALL = ("--student", "test_resnet", "--student-weights", "none")
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A copy of the demo's teacher."""
    return Path(shutil.copytree(DEMO_TEACHER.removeprefix("local-dir:"), tmp_path / "teacher"))


def edit(teacher: Path, place: str, value: Any) -> None:
    """Set a value of the configuration; None removes it."""
    config = json.loads((teacher / CONFIG_FILE).read_text())
    *parts, name = place.split(".")
    part = config
    for one in parts:
        part = part[one]
    if value is None:
        del part[name]
    else:
        part[name] = value
    (teacher / CONFIG_FILE).write_text(json.dumps(config))


def said_of(teacher: Path) -> str:
    """The one error of loading it."""
    with pytest.raises(DhoxError) as found:
        load_teacher(f"local-dir:{teacher}", CPU)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("preprocess_cfg.std", "0.353", "preprocess_cfg.std"),
        ("preprocess_cfg.std", [0.353, 0.353], "preprocess_cfg.std"),
        ("preprocess_cfg.std", [0.3, 0.0, 0.3], "preprocess_cfg.std[1]"),
        ("preprocess_cfg.std", [0.3, float("inf"), 0.3], "std"),
        ("preprocess_cfg.mean", [float("nan"), 0.2, 0.2], "mean"),
        ("preprocess_cfg.mean", ["a", 0.2, 0.2], "preprocess_cfg.mean[0]"),
        ("preprocess_cfg.interpolation", "lanczos", "preprocess_cfg.interpolation"),
        ("preprocess_cfg", [], "preprocess_cfg"),
        ("model_cfg", None, "model_cfg"),
        ("model_cfg.embed_dim", None, "embed_dim"),
        ("model_cfg.embed_dim", "64", "model_cfg.embed_dim"),
        ("model_cfg.vision_cfg", None, "vision_cfg"),
        ("model_cfg.vision_cfg", 7, "model_cfg.vision_cfg"),
        ("model_cfg.vision_cfg.head_width", 48.5, "model_cfg.vision_cfg.head_width"),
        ("model_cfg.vision_cfg.head_width", 0, "model_cfg.vision_cfg.head_width"),
        ("model_cfg.vision_cfg.image_size", 0, "model_cfg.vision_cfg.image_size"),
        ("model_cfg.vision_cfg.image_size", "28", "model_cfg.vision_cfg.image_size"),
        ("model_cfg.text_cfg.context_length", -1, "model_cfg.text_cfg.context_length"),
        ("model_cfg.text_cfg.heads", True, "model_cfg.text_cfg.heads"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(teacher: Path, place: str, value: Any, named: str) -> None:
    edit(teacher, place, value)
    said = said_of(teacher)
    assert str(teacher / CONFIG_FILE) in said
    assert named in said
    with pytest.raises(DhoxError, match=CONFIG_FILE):
        load_tower(f"open_clip:local-dir:{teacher}", "pretrained", None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model_cfg.vision_cfg.head_width", 48.0),  # whole, and still no integer to open_clip
        ("model_cfg.vision_cfg.patch_size", 5),
        ("model_cfg.vision_cfg.width", 64),
        ("model_cfg.vision_cfg.image_size", 56),
        ("model_cfg.vision_cfg.layers", 4),
        ("model_cfg.vision_cfg.pool_typ", "tok"),
        ("model_cfg.text_cfg.heads", 3),
        ("model_cfg.embed_dim", 32),
    ],
)
def test_a_configuration_of_another_model_is_one_error(teacher: Path, place: str, value: Any) -> None:
    edit(teacher, place, value)
    said = said_of(teacher)
    assert str(teacher) in said
    assert CONFIG_FILE in said


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b"null"])
def test_a_file_that_is_no_configuration(teacher: Path, content: bytes) -> None:
    (teacher / CONFIG_FILE).write_bytes(content)
    assert str(teacher / CONFIG_FILE) in said_of(teacher)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def lose_one(path: Path) -> None:
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "visual.proj"}, path)


def set_all(name: str, value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = load_file(path)
        save_file(state | {name: torch.full_like(state[name], value)}, path)

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (Path.unlink, "weights"),
        (cut, "weights"),
        (lose_one, "visual.proj"),
        (set_all("logit_scale", float("nan")), "logit_scale"),
        (set_all("logit_scale", 1e3), "logit_scale"),
        (set_all("visual.proj", float("nan")), "not finite"),
        (set_all("text_projection", float("inf")), "not finite"),
    ],
)
def test_damaged_weights_are_one_error(teacher: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(teacher / WEIGHTS)
    said = said_of(teacher)
    assert str(teacher) in said
    assert named in said


@pytest.mark.parametrize("command", [("distill", *SMALL), ("audit",), ("cache",)])
def test_every_command_with_a_teacher_says_it_and_writes_nothing(
    line: Path, teacher: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    edit(teacher, "preprocess_cfg.std", "0.353")
    with pytest.raises(SystemExit, match="1"):
        main([*command, str(line / "data"), "--teacher", f"local-dir:{teacher}", "--device", "cpu"])
    error = capsys.readouterr().err
    assert f"{teacher / CONFIG_FILE}" in error
    assert "Traceback" not in error
    assert [path.name for path in Path().iterdir()] == ["teacher"]


def test_every_configuration_that_open_clip_brings_is_one() -> None:
    for name in open_clip.list_models():
        msgspec.convert(open_clip.get_model_config(name), Model)


def test_a_sound_teacher_loads(teacher: Path) -> None:
    edit(teacher, "preprocess_cfg.size", [28, 28])
    edit(teacher, "model_cfg.vision_cfg.image_size", [28, 28])
    found = load_teacher(f"local-dir:{teacher}", CPU)
    assert (found.size, found.width) == (28, 64)
    edit(teacher, "preprocess_cfg", None)
    assert load_teacher(f"local-dir:{teacher}", CPU).mean == open_clip.OPENAI_DATASET_MEAN

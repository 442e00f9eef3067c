"""Every recipe against the live command; what --recipe accepts, and that explicit options win."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from dhox.cli.main import app, main
from dhox.distill.options import DistillOptions, check
from dhox.distill.teachers.templates import check_template
from dhox.distill.training.steps import steps_per_epoch
from dhox.options.declare import build, plain
from dhox.options.recipe import read_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


def parse(*arguments: str) -> dict[str, Any]:
    """The parameters of `dhox distill DATA ...`, without running it."""
    command = get_command(app).commands["distill"]  # type: ignore[attr-defined]
    with command.make_context("distill", ["DATA", *arguments]) as context:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}


def recipe(text: str) -> str:
    Path("r.toml").write_text(text)
    return "r.toml"


def test_there_is_a_recipe_for_every_regime() -> None:
    names = [path.relative_to(ROOT / "recipes").as_posix() for path in RECIPES]
    few = {name.removesuffix(".toml") for name in names if name.startswith("few-shot/")}
    assert few < {name.removesuffix(".toml") for name in names}
    assert few
    assert {f"{name}-tip-f" for name in few if not name.endswith("-tip-f")} == {n for n in few if n.endswith("-tip-f")}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_takes_every_key(path: Path) -> None:
    content = read_recipe(path, DistillOptions)
    given_by = parse("--recipe", str(path))
    assert {name: plain(given_by[name]) for name in content} == {name: plain(value) for name, value in content.items()}
    check(build(DistillOptions, **{"shots": 1} if path.parent.name == "few-shot" else {}, **content))
    for template in content["template"]:
        check_template(template, path.stem)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_comment_says_how_what_and_where_it_comes_from(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") and len(line) <= 120 for line in head.splitlines())
    assert f"--recipe {path.relative_to(ROOT).as_posix()}" in head
    for word in ("Needs:", "Paper", "Where code (erjui/DHO) and paper differ:"):
        assert word in head
    assert "Table" in head or "plotted" in head


def test_few_shot_recipes_leave_the_shots_to_the_command_line() -> None:
    for path in RECIPES:
        content = read_recipe(path, DistillOptions)
        few = path.parent.name == "few-shot"
        assert ("shots" in content, "label_fraction" in content) == (False, not few)
        assert content["label_sampler"] == ("few-shot-reference" if few else "percent-reference")
        fixed = "imagenet" in path.name
        assert content["tune_on"] == ("none" if fixed else "val")
        assert ("alpha" in content and "beta" in content) == fixed


IMAGENET_TEMPLATES = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
SCRIPTS: dict[str, dict[str, Any]] = {  # arguments, defaults and constants of the authors' scripts, by what they train
    "train_others.py": {
        "epochs": 200, "epoch_over": "labelled", "batch_labelled": 64, "batch_unlabelled": 64, "learning_rate": 1e-3,
        "weight_decay": 0.01, "schedule": "linear", "warm_up": 0.1, "student": "resnet18.tv_in1k",
    },
    "train_imgnet.py": {
        "epochs": 20, "epoch_over": "unlabelled", "batch_labelled": 256, "batch_unlabelled": 256, "learning_rate": 1e-3,
        "weight_decay": 0.01, "schedule": "cosine", "warm_up": 0.0, "student": "resnet50",
        "student_weights": "dino_resnet50_pretrain.pth", "template": IMAGENET_TEMPLATES,
    },
    "train_imgnet_semi.py": {
        "epochs": 32, "epoch_over": "unlabelled", "batch_labelled": 256, "batch_unlabelled": 256, "learning_rate": 5e-5,
        "weight_decay": 0.05, "schedule": "cosine", "kd_head": "cosine-code", "init_heads": "text-code", "alpha": 0.5,
        "beta": 0.5, "template": IMAGENET_TEMPLATES,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_settings_are_those_of_the_authors_scripts(path: Path) -> None:
    content = read_recipe(path, DistillOptions)
    few = "train_imgnet.py" if "imagenet" in path.name else "train_others.py"
    script = few if path.parent.name == "few-shot" else "train_imgnet_semi.py"
    everywhere = {"teacher_scale": 100.0, "seed": 1, "precision": "32-true", "teacher_temperature": 2.0}
    assert {name: content.get(name) for name in SCRIPTS[script] | everywhere} == SCRIPTS[script] | everywhere


@pytest.mark.parametrize(("percent", "unlabelled"), [(1, 1_268_167), (10, 1_152_881)])
def test_low_shot_warm_up_is_five_thousand_steps(percent: int, unlabelled: int) -> None:
    found = [path for path in RECIPES if path.name.startswith(f"imagenet-{percent}-percent")]
    assert found
    for path in found:
        content = read_recipe(path, DistillOptions)
        steps = content["epochs"] * steps_per_epoch(unlabelled, content["batch_unlabelled"])
        assert round(content["warm_up"] * steps) == 5000


def test_the_guide_names_every_recipe() -> None:
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for path in RECIPES:
        name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix().removesuffix("-tip-f")
        assert name in text
    assert set(re.findall(r"`((?:few|low)-shot/[\w-]+)`", text)) <= {
        path.relative_to(ROOT / "recipes").with_suffix("").as_posix() for path in RECIPES
    }


@given(epochs=st.integers(1, 10**6), explicit=st.none() | st.integers(1, 10**6), first=st.booleans())
def test_explicit_options_win_wherever_they_stand(epochs: int, explicit: int | None, first: bool) -> None:
    file = ["--recipe", recipe(f"epochs = {epochs}")]
    option = [] if explicit is None else ["--epochs", str(explicit)]
    assert parse(*(file + option if first else option + file))["epochs"] == (epochs if explicit is None else explicit)


def test_values_have_the_types_of_their_options() -> None:
    text = 'shots = 2\nlearning-rate = 1\ntemplate = ["a {}.", "{}!"]\nstudent = "resnet50"\nskip-bad-images = true\nclasses = "c.txt"\n'
    found = parse("--recipe", recipe(text))
    assert (found["shots"], found["learning_rate"], found["student"]) == (2, 1, "resnet50")
    assert (found["template"], found["skip_bad_images"], str(found["classes"])) == (["a {}.", "{}!"], True, "c.txt")
    assert parse("--recipe", recipe(text), "--template", "one {}")["template"] == ["one {}"]


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        (2, "epoch = 3", "r.toml.*'epoch'.*epochs"),
        (2, "batch_labelled = 3", "batch-labelled"),
        (2, "zzz = 3", "r.toml.*'zzz'"),
        (2, 'recipe = "x"', "'recipe'"),
        (2, 'data = "x"', "'data'"),
        (2, 'epochs = "3"', "r.toml.*--epochs.*whole number"),
        (2, "epochs = true", "--epochs.*whole number"),
        (2, "epochs = 2.5", "--epochs.*whole number"),
        (2, 'learning-rate = "fast"', "--learning-rate.*a number"),
        (2, "student = 3", "--student.*a text"),
        (2, "overwrite = 1", "--overwrite.*true or false"),
        (2, 'template = "a {}."', "--template.*a list"),
        (2, "template = [1]", "--template"),
        (2, 'student = ["resnet18"]', "--student.*a text"),
        (2, "epochs = 0", "--epochs.*at least 1"),
        (2, 'schedule = "flat"', "--schedule.*cosine, linear"),
        (2, 'method = "best"', "--method best.*dho"),
        (1, "epochs =", "r.toml"),
        (2, "epochs = 3", "missing"),
    ],
)
def test_wrong_recipes_are_one_message(capsys: pytest.CaptureFixture[str], code: int, text: str, message: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["distill", "missing", "--recipe", recipe(text)])
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert end.value.code == code
    assert re.search(message, error), error


def test_a_missing_recipe_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", "missing", "--recipe", "none.toml"])
    assert "none.toml" in capsys.readouterr().err

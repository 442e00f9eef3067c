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
        (1, "epochs = 3", "missing"),
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

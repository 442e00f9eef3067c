"""One declaration of an option: the command, its help, recipes, settings and Python know it."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from refusals import refuses
from typer.testing import CliRunner

import dhox
from dhox.distill.options import DistillOptions, check
from dhox.errors import UsageError
from dhox.options.command import with_options
from dhox.options.declare import AtLeastOne, Group, Option, Options, Share, build, flat, replaced, settings
from dhox.options.package import make_callable, options_of
from dhox.options.recipe import read_recipe


class Filling(Group):
    """What is in it"""

    toys: Annotated[AtLeastOne, Option("Toys per box.", common=True)] = 3
    share: Annotated[Share | None, Option("Share of red ones.", shown="as they come")] = None
    kind: Annotated[Literal["bear", "elephant", "hippopotamus"], Option("What they are.")] = "bear"
    label: Annotated[tuple[str, ...], Option("Text on the box; repeatable.")] = ()
    plan: Annotated[Path | None, Option("Where each one lies.")] = None


class Packing(Group):
    """How it is packed"""

    glue: Annotated[bool | None, Option("Glue it.", flags="--glue/--tape", shown="by size")] = None
    hands: Annotated[AtLeastOne, Option("Who packs.", how=True)] = 1


class ToyOptions(Options):
    filling: Filling = Filling()
    packing: Packing = Packing()


taken: list[ToyOptions] = []


@with_options
def box(name: str, options: ToyOptions = ToyOptions()) -> None:  # noqa: B008
    """Pack a box."""
    taken.append(options)


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(context_settings={"terminal_width": 80})(box)
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", "TERM": "dumb"})
    return done.exit_code, done.output


def test_the_command_builds_the_record() -> None:
    assert (
        run("red", "--toys", "5", "--kind", "elephant", "--label", "a", "--label", "b", "--tape", "--plan", "p")[0] == 0
    )
    assert taken[-1] == ToyOptions(
        Filling(toys=5, kind="elephant", label=("a", "b"), plan=Path("p")), Packing(glue=False)
    )
    assert run("red") == (0, "")
    assert taken[-1] == ToyOptions()


def test_help_has_a_panel_per_group_and_fits_80_columns() -> None:
    code, text = run("--help")
    assert code == 0
    for word in ("--toys", "What is in it", "How it is packed", "--glue", "--tape", "as they come", "by size"):
        assert word in text
    assert "bear, elephant, hippopotamus" in " ".join(text.replace("│", " ").split())
    assert text.index("--toys") < text.index("What is in it") < text.index("--share")  # the common one first
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    "words", [["--toys", "0"], ["--share", "2"], ["--kind", "cat"], ["--toys", "many"], ["--toy", "3"]]
)
def test_the_command_refuses_other_values(words: list[str]) -> None:
    code, text = run("red", *words)
    assert code == 2
    assert words[0] in text


@pytest.mark.parametrize(
    ("text", "option"),
    [("toys = 0", "--toys"), ("share = 2", "--share"), ('kind = "cat"', "--kind"), ("toys = true", "--toys")],
)
def test_a_recipe_knows_names_types_and_bounds(text: str, option: str) -> None:
    Path("r.toml").write_text(text)
    with refuses("r.toml", option, at="options", kind=UsageError):
        read_recipe(Path("r.toml"), ToyOptions)


def test_a_recipe_is_read_by_long_options() -> None:
    Path("r.toml").write_text('toys = 7\nglue = true\nlabel = ["x"]\nplan = "p.csv"\nshare = 1\n')
    values = read_recipe(Path("r.toml"), ToyOptions)
    assert build(ToyOptions, **values) == ToyOptions(
        Filling(toys=7, label=("x",), plan=Path("p.csv"), share=1.0), Packing(glue=True)
    )
    assert options_of(ToyOptions, {"toys": 1}, "r.toml").filling == Filling(
        toys=1, label=("x",), plan=Path("p.csv"), share=1.0
    )
    Path("r.toml").write_text("toy = 7\n")
    with refuses("r.toml", "'toy'", at="options", fix="toys", kind=UsageError):
        read_recipe(Path("r.toml"), ToyOptions)


def test_settings_are_what_decides_the_result() -> None:
    options = build(ToyOptions, hands=4, plan="p", label=["x"])
    assert settings(options) == {
        "glue": None, "kind": "bear", "label": ["x"], "plan": str(Path("p").absolute()), "share": None, "toys": 3,
    }  # fmt: skip
    assert settings(options) == settings(replaced(options, hands=1))
    assert flat(replaced(options, toys=9))["toys"] == 9


def test_a_package_can_be_called_with_options() -> None:
    package = types.ModuleType("toybox")
    sys.modules["toybox"] = package

    def pack(name: str, **options: Any) -> ToyOptions:
        return options_of(ToyOptions, options)

    make_callable("toybox", pack, ToyOptions)
    assert package("red", toys=5).filling.toys == 5  # type: ignore[operator]
    assert list(inspect.signature(package).parameters) == [  # type: ignore[arg-type]
        "name", "toys", "share", "kind", "label", "plan", "glue", "hands",
    ]  # fmt: skip
    with refuses("toyz", at="options.declare.build", fix="toys", kind=UsageError):
        package("red", toyz=5)  # type: ignore[operator]
    with refuses("--toys 0", at="options.declare.checked", kind=UsageError):
        package("red", toys=0)  # type: ignore[operator]
    del sys.modules["toybox"]


@pytest.mark.parametrize(("stage", "option"), [("distill", "shots"), ("export", "fp16"), ("bench", "device")])
def test_every_stage_can_be_called_from_python(stage: str, option: str) -> None:
    package = getattr(dhox, stage)
    assert option in inspect.signature(package).parameters
    with refuses("optoin", at="options.declare.build", kind=UsageError):
        package("missing", optoin=1)
    assert package.__doc__


@pytest.mark.parametrize(
    ("values", "names", "fix"),
    [
        ({"shots": 1, "label_fraction": 0.5}, ["--shots", "--label-fraction"], ()),
        ({"label_fraction": 0.0}, ["--label-fraction 0"], "--method kd"),
        ({"method": "dho,dho"}, ["--method dho,dho"], "--seeds"),
        ({"method": "best"}, ["--method best"], "dho"),
        ({"method": "kd", "shots": 1}, ["--method kd"], "--shots"),
        ({"method": "kd", "tune_on": "held-out"}, ["--method kd"], "--tune-on held-out"),
        ({"method": "ce", "top_k": 2}, ["--method ce"], ()),
        ({"method": "ce", "probe_gradients": 2}, ["--probe-gradients"], "--method dho"),
        ({"method": "kd", "adapter": "tip"}, ["--adapter"], "--teacher"),
        ({"label_sampler": "few-shot-reference"}, ["--label-sampler few-shot-reference"], "--shots"),
        ({"label_sampler": "percent-reference", "shots": 1}, ["--label-sampler percent-reference"], "--label-fraction"),
        ({"alpha": 0.5}, ["--alpha", "--beta"], ()),
        ({"teacher_embeddings": "z.npy"}, ["--teacher-embeddings", "--class-embeddings"], ()),
        ({"teacher_embeddings": "z", "class_embeddings": "w", "teacher_logits": "l"}, ["--teacher-logits"], ()),
        ({"teacher_logits": "l", "teacher": "ViT-H-14/x"}, ["--teacher-logits", "--teacher"], "--teacher"),
        ({"teacher_logits": "l", "teacher_scale": 9.0}, ["--teacher-logits", "--teacher-scale"], "--teacher-scale"),
        ({"teacher_logits": "l", "template": ["a {}"]}, ["--teacher-logits", "--template"], "--template"),
        ({"teacher_embeddings": "z", "class_embeddings": "w"}, ["--teacher-embeddings"], "--teacher-scale"),
        ({"online_teacher": True, "teacher_logits": "l"}, ["--online-teacher"], ()),
        ({"template": ["a {}"], "templates": "simple"}, ["--templates", "--template"], ()),
    ],
)
def test_options_that_exclude_each_other(values: dict[str, Any], names: list[str], fix: str) -> None:
    with refuses(*names, at="distill.options", fix=fix, kind=UsageError):
        check(build(DistillOptions, **values))

"""Stage packages that can be called: `dhox.distill(DATA, shots=16)` beside `import dhox.distill.run`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from dhox.options.declare import Options, build, fields_of
from dhox.options.recipe import read_recipe

O = TypeVar("O", bound=Options)  # noqa: E741


class CallablePackage(ModuleType):
    """A package that stands for one function, its `stage`; `option_record`: the type of its options."""

    stage: Callable[..., Any]
    option_record: type[Options]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the stage."""
        return self.stage(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        """What the stage takes, its options spelled out."""
        own = [p for p in inspect.signature(self.stage).parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.kind)
            for field in fields_of(self.option_record).values()
        ]
        return inspect.Signature(own + options)


def make_callable(package: str, stage: Callable[..., Any], option_record: type[Options]) -> None:
    """Let the package be called as `stage`."""
    module = sys.modules[package]
    module.__class__ = CallablePackage
    assert isinstance(module, CallablePackage)
    module.stage, module.option_record = stage, option_record


def options_of(kind: type[O], values: dict[str, Any], recipe: str | Path | None = None) -> O:
    """The options from Python's keywords, over those of a recipe. Raises UsageError for what is no option or value."""
    return build(kind, **((read_recipe(Path(recipe), kind) if recipe else {}) | values))

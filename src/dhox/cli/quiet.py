"""`--quiet`, the same option for every command that may take long."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from dhox.progress import be_quiet

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress: results, warnings and errors alone.")]


def with_quiet(function: Callable[..., None]) -> Callable[..., None]:
    """The command with `--quiet` as its last option."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [of.replace(annotation=hints[of.name]) for of in inspect.signature(function).parameters.values()]
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)

    @functools.wraps(function)
    def command(*, quiet: bool, **values: Any) -> None:
        if quiet:
            be_quiet()
        function(**values)

    command.__signature__ = inspect.Signature([*parameters, quiet])  # type: ignore[attr-defined]
    command.__annotations__ = hints | {"quiet": Quiet}
    return command

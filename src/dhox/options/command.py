"""A typer command from option records: each parameter whose type is an `Options` record becomes one per option."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from msgspec import NODEFAULT

from dhox.options.declare import Field, Options, build, fields_of

METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}  # narrow, so that 80 columns hold the help
WIDEST_CHOICE = 17  # characters; longer lists of choices stand in the help, where 80 columns can wrap them


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """The function with its `Options` parameters spread out for typer, in panels by group.

    The common ones stand in typer's own first panel, behind the options that the function declares itself.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    records: dict[str, type[Options]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(hints[name], type) and issubclass(hints[name], Options):
            records[name] = hints[name]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    for record in records.values():
        ordered = sorted(fields_of(record).values(), key=lambda field: not field.option.common)
        parameters += [_parameter_of(field) for field in ordered]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, record in records.items():
            given = {field: values.pop(field) for field in fields_of(record)}
            values[name] = build(record, **{field: value for field, value in given.items() if value is not None})
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter_of(field: Field) -> inspect.Parameter:
    """One option as typer reads it."""
    option, kind, sentence, metavar = field.option, field.kind, field.option.help, field.option.metavar
    several = get_origin(kind) in (list, tuple)
    one = get_args(kind)[0] if several else kind
    choices = get_args(one) if get_origin(one) is Literal else ()
    if choices and len("|".join(choices)) > WIDEST_CHOICE:
        metavar, sentence = "NAME", f"{sentence} One of: {', '.join(choices)}."
    elif not choices:
        metavar = metavar or METAVARS.get(one)
    elif several:
        metavar = "|".join(choices)
    if several and choices:
        one = str  # typer takes no list of choices; `build` checks them
    info = typer.Option(
        *[option.flags or field.flag],
        help=sentence, metavar=metavar, min=field.low, max=field.high,
        show_default=option.shown or not (field.default is None or field.default is False or field.default in ([], ())),
        rich_help_panel=None if option.common else field.title,
    )  # fmt: skip
    hint = list[one] | None if several else kind | None if field.optional else kind  # type: ignore[valid-type]
    default = (
        inspect.Parameter.empty
        if field.default is NODEFAULT
        else None
        if several and not field.default
        else field.default
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info]
    )


def examples(*lines: str) -> str:
    """Example lines as a command's epilog: typer keeps the line breaks of paragraphs alone."""
    return "\n\n".join(["Examples:", *(f"  {line}".replace("[", r"\[") for line in lines)])

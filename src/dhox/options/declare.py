"""Options, declared once: a frozen record per group feeds the command line, recipes, run.json, --resume and Python.

A stage has one record of groups:

    class Labels(Group, kw_only=True):
        "Which images are labelled"
        shots: Annotated[AtLeastOne | None, Option("Labelled images per class.", shown="all of train")] = None

    class DistillOptions(Options, kw_only=True):
        labels: Labels = Labels()
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from dhox.errors import UsageError
from dhox.type_checking import dataclass_transform

Natural = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Option:
    """What an option is to its users.

    `help`: one sentence. `shown`: the default in words, where it is computed. `metavar`: what the value is called.
    `flags`: the long options, where they are not the field's name (`--compile/--no-compile`). `common`: among the ten
    that most people use first. `how`: it changes how, not what, is computed, so that --resume takes another value.
    """

    help: str
    shown: str | None = None
    metavar: str | None = None
    flags: str | None = None
    common: bool = False
    how: bool = False


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Group(msgspec.Struct, frozen=True):
    """Options that belong together; the docstring is their title. Every field is Annotated with an `Option`."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Options(msgspec.Struct, frozen=True):
    """The options of a command: a record of groups. Names are unique over all groups."""


O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Field:
    """One option as declared: its group's field and title, its kind without Annotated, None and bounds, and bounds.

    `default`: NODEFAULT where it has to be given.
    """

    name: str
    group: str
    title: str
    option: Option
    kind: Any
    hint: Any
    default: Any
    optional: bool
    low: float | None
    high: float | None

    @property
    def flag(self) -> str:
        """The long option, without --no-..."""
        return (self.option.flags or f"--{self.name.replace('_', '-')}").split("/")[0]


@cache
def fields_of(kind: type[Options]) -> dict[str, Field]:
    """Every option of a command by name, in the order of declaration."""
    found = {}
    for group_name, group in get_type_hints(kind).items():
        for field in msgspec.structs.fields(group):
            assert field.name not in found, f"{field.name} is declared twice"
            made = field.default_factory
            default = field.default if made is msgspec.NODEFAULT else made()
            found[field.name] = described(field.name, group_name, group, default)
    return found


def described(name: str, group_name: str, group: type[Group], default: Any) -> Field:
    """A declared field, taken apart."""
    hint = get_type_hints(group, include_extras=True)[name]
    option = next(extra for extra in hint.__metadata__ if isinstance(extra, Option))
    metas = [extra for extra in hint.__metadata__ if isinstance(extra, Meta)]
    kind, optional = hint.__origin__, False
    if get_origin(kind) in (Union, UnionType):
        (kind,), optional = [part for part in get_args(kind) if part is not NoneType], True
    if get_origin(kind) is Annotated:
        metas += [extra for extra in kind.__metadata__ if isinstance(extra, Meta)]
        kind = kind.__origin__
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    high = next((meta.le for meta in metas if meta.le is not None), None)
    title = (group.__doc__ or "").splitlines()[0].rstrip(".")
    return Field(name, group_name, title, option, kind, hint, default, optional, low, high)


def build(kind: type[O], /, **values: Any) -> O:
    """The record of a command from values by name; what is left out has its default.

    Raises UsageError for an unknown name (with the closest one), and for a value of a wrong type or out of its bounds.
    """
    fields = fields_of(kind)
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in fields:
            raise UsageError(f"{name} is no option.", closest(name, list(fields)))
        groups.setdefault(fields[name].group, {})[name] = checked(fields[name], value)
    hints = get_type_hints(kind)
    return kind(**{group: hints[group](**of_group) for group, of_group in groups.items()})


def checked(field: Field, value: Any) -> Any:
    """A value as its field takes it. Raises UsageError that says what is allowed."""
    if isinstance(value, tuple):
        value = list(value)
    try:
        return msgspec.convert(value, field.hint, dec_hook=_as_path)
    except (msgspec.ValidationError, NotImplementedError, TypeError) as err:
        raise UsageError(f"{field.flag} {value!r}: {str(err).partition(' - at')[0]}.", allowed(field)) from err


def _as_path(kind: type, value: Any) -> Any:
    """Texts stand for paths in recipes and in Python."""
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise NotImplementedError(f"expected `{kind.__name__}`, got `{type(value).__name__}`")


def allowed(field: Field) -> str:
    """What an option takes, as a sentence."""
    if get_origin(field.kind) is Literal:
        return f"Use one of: {', '.join(get_args(field.kind))}."
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "a text"}
    what = words.get(field.kind, "a list")
    if field.low is not None and field.high is not None:
        return f"Give {what} from {field.low:g} to {field.high:g}."
    return f"Give {what}{'' if field.low is None else f' of at least {field.low:g}'}."


def flat(options: Options) -> dict[str, Any]:
    """Every option's value by name."""
    return {name: getattr(getattr(options, field.group), name) for name, field in fields_of(type(options)).items()}


def settings(options: Options) -> dict[str, Any]:
    """Every value that decides the result, by name, as JSON keeps it; paths are absolute."""
    fields = fields_of(type(options))
    return {name: plain(value) for name, value in sorted(flat(options).items()) if not fields[name].option.how}


def plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def replaced(options: O, /, **values: Any) -> O:
    """The same options with other values."""
    return build(type(options), **(flat(options) | values))


def closest(name: str, known: list[str]) -> str:
    """Which option was meant."""
    near = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(known[:8])} ..., see --help."


def command_line(options: Options, besides: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """The options that differ from their defaults, but those of `besides`, for the same command elsewhere.

    A value stands in one argument with its option, so that no value is ever read as an option.
    """
    arguments = []
    for name, value in flat(options).items():
        field = fields_of(type(options))[name]
        if name in besides or value == field.default:
            continue
        if isinstance(value, bool):
            arguments.append(field.flag if value else (field.option.flags or "").split("/")[-1])
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            arguments += [f"{field.flag}={one}" for one in values]
    return arguments

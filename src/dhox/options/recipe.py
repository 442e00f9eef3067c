"""Recipes: a TOML file whose keys are long options of `dhox distill` and whose values replace their defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from dhox.errors import DhoxError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORDS = {int: "a whole number", float: "a number", bool: "true or false"}  # everything else: a text in quotes


def read_toml(file: Path, kind: str, advice: str) -> dict[str, Any]:
    """The content of a TOML file. Raises DhoxError, which ends with `advice`, where it is missing or no TOML.

    `kind`: what it is, for messages.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise DhoxError(f"The {kind} {file} cannot be read ({err.strerror}).", "Check the path.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise DhoxError(f"The {kind} {file} is not valid TOML ({err}).", f"{advice}") from err


def read_recipe(file: Path) -> dict[str, Any]:
    """The keys and values of a recipe. Raises DhoxError where the file is missing or no TOML."""
    return read_toml(file, "recipe", "Mend it: lines like epochs = 30.")


def defaults_of(file: Path, options: dict[str, str], hints: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values by parameter name, as click's `default_map` takes them.

    `options`: long option without -- -> parameter name; `hints`: parameter name -> its type. Raises UsageError for a
    key that is no option (with the closest one) and for a value of a wrong type; choices and ranges are checked where
    the command checks its options.
    """
    defaults = {}
    for key, value in read_recipe(file).items():
        if key not in options:
            raise UsageError(f"{file}: {key!r} is no option of dhox distill.", f"{closest(key, list(options))}")
        name = options[key]
        kinds = [kind for kind in get_args(hints[name]) if kind is not NoneType] or [hints[name]]
        listed = get_args(kinds[0])
        if bool(listed) != isinstance(value, list):
            raise UsageError(f"{file}: {key} = {value!r}.", f"It should be {'a list' if listed else 'one value'}.")
        for entry in value if listed else [value]:
            check_type(entry, listed[0] if listed else kinds[0], f"{file}: {key} = {value!r}")
        defaults[name] = value
    return defaults


def check_type(value: Any, kind: type, where: str) -> None:
    """Raise UsageError where a TOML value does not have the type of its option."""
    allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, (str,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where}.", f"It should be {WORDS.get(kind, 'a text in quotes')}.")


def closest(key: str, known: list[str]) -> str:
    """Which option was meant."""
    import difflib

    near = difflib.get_close_matches(key, known, 1)
    return f"Did you mean {near[0]}?" if near else "Keys are long options without --, such as batch-labelled."

"""Recipes: a TOML file whose keys are long options of a command and whose values replace their defaults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dhox.errors import DhoxError, UsageError, not_there
from dhox.options.declare import Options, checked, closest, fields_of
from dhox.system.regular_file import regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(file: Path, kind: str, advice: str) -> dict[str, Any]:
    """The content of a TOML file. Raises DhoxError, which ends with `advice`, where it is missing or no TOML.

    `kind`: what it is, for messages.
    """
    if not file.exists():
        raise not_there(file, advice, f"The {kind}")
    try:
        return tomllib.loads(regular(file).read_text(encoding="utf-8"))
    except OSError as err:
        raise DhoxError(f"The {kind} {file} cannot be read ({err.strerror}).", "Check the path.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise DhoxError(f"The {kind} {file} is not valid TOML ({err}).", advice) from err


def shipped(recipe: Path) -> Path:
    """The file of a recipe that comes with dhox, where one is named and no such file lies here."""
    own = Path(__file__).parent / "recipes" / f"{recipe.name}.toml"
    return own if recipe.parent == Path() and own.exists() and not recipe.exists() else recipe


def read_recipe(file: Path, kind: type[Options]) -> dict[str, Any]:
    """A recipe's values by name, of the options `kind`; `file` may name one that comes with dhox, as dho-paper.

    Raises DhoxError where the file is missing or no TOML, UsageError for a key that is no option (with the closest one)
    and for a value of a wrong type or out of its bounds.
    """
    fields = {field.flag.removeprefix("--"): field for field in fields_of(kind).values()}
    values = {}
    file = shipped(file)
    for key, value in read_toml(file, "recipe", "Mend it: lines like epochs = 30.").items():
        if key not in fields:
            raise UsageError(f"{file}: {key!r} is no option that a recipe can set.", closest(key, list(fields)))
        try:
            values[fields[key].name] = checked(fields[key], value)
        except UsageError as err:
            raise UsageError(f"{file}: {err.reason}", err.fix) from err
    return values

"""Write docs/reference.md: every command with its options, as the commands declare them.

python scripts/write_reference.py
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from dhox.cli.main import app
from dhox.options.command import METAVARS

FILE = Path(__file__).parents[1] / "docs/reference.md"
HEAD = """# Reference: commands and options

Written by scripts/write_reference.py. In Python, `dhox.distill(DATA, ...)`, `dhox.export(RUN, ...)` and
`dhox.bench(EXPORT, ...)` take the same options, with _ for - (`shots=16`, `image_size=224`); a recipe of `dhox distill`
(`--recipe FILE.toml`) takes them as keys without --.

Exit codes:

| code | |
| --- | --- |
| 0 | done |
| 1 | what was given cannot be used, or the work failed; the message says what mends it |
| 2 | the command line: something is missing, wrong or contradictory, or it names what does not exist |
| 3 | the work was done, and a gate failed: accuracy, latency, golden images |
| 130 | stopped by Ctrl-C or a signal; the message says what is kept |
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command. `kind`: its type without None and Annotated."""

    name: str
    info: ArgumentInfo | OptionInfo
    kind: Any
    default: Any

    @property
    def panel(self) -> str:
        """The title of its panel in --help."""
        return self.info.rich_help_panel or ("Options" if isinstance(self.info, OptionInfo) else "Arguments")

    @property
    def value(self) -> str:
        """What its value is called."""
        one = get_args(self.kind)[0] if get_origin(self.kind) is list else self.kind
        choices = get_args(one) if get_origin(one) is Literal else ()
        return self.info.metavar or "|".join(choices) or METAVARS.get(one, self.name.upper())

    @property
    def words(self) -> str:
        """How it is written on the command line."""
        if isinstance(self.info, ArgumentInfo):
            return self.info.metavar or self.name.upper()
        # In Annotated, typer keeps the first declaration where a default would stand.
        declared = [*(self.info.param_decls or []), self.info.default]
        flags = next((word for word in declared if isinstance(word, str)), f"--{self.name.replace('_', '-')}")
        flags = flags.replace("/", ", ")
        return flags if self.kind is bool else f"{flags} {self.value}"

    @property
    def row(self) -> str:
        """Its row in a table."""
        return f"| {code(self.words)} | {self.shown} | {cell(self.info.help or '')} |"

    @property
    def shown(self) -> str:
        """Its default as --help shows it."""
        if isinstance(self.info.show_default, str):
            return cell(self.info.show_default)
        if self.default is inspect.Parameter.empty:
            return "required"
        hidden = self.default is None or isinstance(self.default, bool) or not self.info.show_default
        return "" if hidden else code(str(self.default))


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(command) for command in app.registered_commands if not command.hidden)])


def section(command: CommandInfo) -> str:
    """A command: usage, what it does, its options by panel, examples."""
    assert command.callback is not None
    name = command.name or command.callback.__name__.replace("_", "-")
    parameters = parameters_of(command.callback)
    arguments = [of.words.strip("[]") for of in parameters if isinstance(of.info, ArgumentInfo)]
    usage = " ".join(["dhox", name, *arguments, "[OPTIONS]"])
    lines = [f"## dhox {name}", "", cell(command.callback.__doc__ or ""), "", f"    {usage}", ""]
    panels: dict[str, list[str]] = {"Arguments": [], "Options": []}
    for parameter in parameters:
        panels.setdefault(parameter.panel, []).append(parameter.row)
    for panel, rows in panels.items():
        lines += [f"| {panel} | default | |", "| --- | --- | --- |", *rows, ""] if rows else []
    if command.epilog:
        examples = command.epilog.replace("\\[", "[").split("\n\n")[1:]
        lines += ["Examples:", "", *(f"    {line.strip()}" for line in examples), ""]
    return "\n".join(lines)


def parameters_of(callback: Any) -> list[Parameter]:
    """The arguments and options of a command that its --help shows."""
    hints = get_type_hints(callback, include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        annotated = next((hint for hint in (hints[name], *get_args(hints[name])) if is_annotated(hint)), None)
        if annotated is None:  # typer's context
            continue
        info = next(extra for extra in annotated.__metadata__ if isinstance(extra, (ArgumentInfo, OptionInfo)))
        kinds = [kind for kind in get_args(annotated.__origin__) if kind is not type(None)]
        union = type(None) in get_args(annotated.__origin__)
        if not info.hidden:
            found.append(Parameter(name, info, kinds[0] if union else annotated.__origin__, parameter.default))
    return found


def is_annotated(hint: Any) -> bool:
    """Whether a type hint is Annotated."""
    return get_origin(hint) is Annotated


def code(text: str) -> str:
    """Text as code in a table."""
    return f"`{text}`".replace("|", "\\|")


def cell(text: str) -> str:
    """A sentence in a table, without line breaks."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    print(FILE)

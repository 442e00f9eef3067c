"""Where dhox prints: one console. (What long steps say while they work: dhox.progress.)"""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.markup import escape

from dhox.errors import dhox_command

WIDTH_OF_LOGS = 140  # columns, where no terminal says how wide it is

# A table in a log file is not cut to 80 columns.
# Of many processes (torchrun), the first one prints.
console = Console(
    highlight=False,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_LOGS,
    quiet=os.environ.get("RANK", "0") != "0",
)


def say(text: str) -> None:
    """One line, escaped and never broken by the console."""
    console.print(escape(text), soft_wrap=True)


def say_next(*words: object) -> None:
    """The command that follows: `dhox WORDS`."""
    console.print(f"Next: [bold]{escape(dhox_command(*words))}[/bold]", soft_wrap=True)

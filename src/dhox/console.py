"""Where dhox prints: one console, one kind of progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

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


class RateColumn(ProgressColumn):
    """Units per second, over the last seconds while running and over all of it at the end."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left; yields a function that advances it by n units."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def quietly() -> Iterator[None]:
    """Print nothing while one step of many works."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before

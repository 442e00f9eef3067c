"""What a long step says while it works: a bar on a terminal, lines in a log file, nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dhox.console import console, say

EVERY_SECONDS, EVERY_SHARE = 30.0, 0.1  # what a log file waits for between two lines, whichever comes first
SOON_SECONDS = 3.0  # and the least between two lines, so that a short step writes none
_quiet = False


class Advance(Protocol):
    """Count `n` more as done; `note`: what the step has found so far, which stays until the next one."""

    def __call__(self, n: int, note: str | None = None) -> None: ...  # noqa: D102


def be_quiet() -> None:
    """No progress from here on (--quiet): results, warnings and errors alone."""
    global _quiet
    _quiet = True


@contextmanager
def quietly() -> Iterator[None]:
    """No progress of the steps inside, which are parts of one."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


@contextmanager
def progress_bar(description: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Show how far a step is, its rate and the time left; yields what advances it.

    `total`: None where nobody knows it yet. `done`: what an earlier process did.
    """
    if _quiet:
        yield lambda n, note=None: None
    elif console.is_terminal:
        with Progress(*columns(total), console=console) as progress, quietly():
            task = progress.add_task(description, total=total, completed=done, note="")

            def advance(n: int, note: str | None = None) -> None:
                progress.advance(task, n)
                if note is not None:
                    progress.update(task, note=note)

            yield advance
    else:
        lines = LogLines(description, total, done)
        with quietly():
            yield lines.advance
        lines.end()


@contextmanager
def working(description: str) -> Iterator[None]:
    """A step of some seconds that cannot say how far it is: a spinner, or one line in a log file."""
    if _quiet:
        yield
    elif console.is_terminal:
        with console.status(f"{description} ..."), quietly():
            yield
    else:
        say(f"{description} ...")
        with quietly():
            yield


class RateColumn(ProgressColumn):
    """Units per second, over the last seconds while running and over all of it at the end."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate_text(speed), style="cyan")


def columns(total: int | None) -> list[ProgressColumn]:
    """The columns of a bar; what a step says of itself stands last, where a narrow terminal cuts it."""
    name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}", markup=False)
    if total is None:
        return [SpinnerColumn(), name, TextColumn("{task.completed:,}"), RateColumn(), TimeElapsedColumn(), note]
    return [name, BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn(), note]


@dataclass
class LogLines:
    """Progress as lines of a log file: what, done, rate, time left, note."""

    description: str
    total: int | None
    done: int = 0
    clock: Callable[[], float] = time.monotonic
    write: Callable[[str], None] = say
    note: str = ""

    def __post_init__(self) -> None:
        self.first, self.written = self.done, self.done
        self.began = self.spoke = self.clock()

    def advance(self, n: int, note: str | None = None) -> None:
        """See Advance."""
        self.done += n
        self.note = self.note if note is None else note
        waited = self.clock() - self.spoke
        share = (self.done - self.written) / self.total if self.total else 0.0
        if waited >= EVERY_SECONDS or (waited >= SOON_SECONDS and share >= EVERY_SHARE):
            self.line()

    def end(self) -> None:
        """The last line, of a step that was long enough for one."""
        if self.written != self.done and self.clock() - self.began >= SOON_SECONDS:
            self.line()

    def line(self) -> None:
        """Write one line."""
        self.spoke, self.written = self.clock(), self.done
        seconds = self.spoke - self.began
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        parts = [f"{self.description}: {self.done:,}" + (f" of {self.total:,}" if self.total else "")]
        parts += [rate_text(rate)] if rate else []
        if self.total and rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        else:
            parts.append(f"in {duration(seconds)}")
        self.write(", ".join([*parts, self.note] if self.note else parts))


def rate_text(rate: float) -> str:
    """Units per second, with a decimal where they are few."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def duration(seconds: float) -> str:
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

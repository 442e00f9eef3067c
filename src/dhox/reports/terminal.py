"""Sections on the terminal: tables that fit it, sentences that break between words. User text is escaped."""

from __future__ import annotations

import re
import textwrap

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from dhox.console import WIDTH_OF_LOGS, console
from dhox.reports.sections import Cell, Column, Page, Section, Table

SHORTEST_NAME, SHORTEST_TEXT = 12, 24  # columns; a longer name or text may break
LONGEST_LINE, WORDY = 50, 98  # a table with a longer text is at most so wide, for the eye
TONES = {"good": "green", "doubtful": "yellow", "bad": "red", "strong": "bold", "dim": "dim"}


def show(page: Page) -> None:
    """Print a page."""
    if page.title or page.subtitle:
        tell(": ".join(text for text in (page.title, page.subtitle) if text))
    if page.verdict:
        tell(page.verdict.sentence, bold=len(page.verdict.sentence))
    for section in page.seen("terminal"):
        show_section(section)
    for line in page.ends:
        console.print(escape(line), soft_wrap=True)


def show_section(section: Section) -> None:
    """Print a section: its tables carry its title; without tables it is a few sentences."""
    for line in section.intro:
        tell(line)
    for number, table in enumerate(section.tables):
        if section.title and number == 0:
            console.print()
            tell(f"{section.title}. {table.caption}".rstrip(), bold=len(section.title))
        elif table.caption:
            tell(table.caption)
        for piece in fitting(table.seen("terminal")):
            wordy = any(len(cell.text) > LONGEST_LINE for row in piece.rows for cell in row)
            console.print(_rich_table(piece), width=min(console.width, WORDY) if wordy else None)
    for line in section.notes:
        tell(line)
    for part in section.parts:
        if part.holds("terminal"):
            show_section(part)


def tell(text: str, bold: int = 0) -> None:
    """Print a sentence, its first `bold` letters in bold: broken between words on a terminal, whole in a log. A path is
    never broken."""
    if console.width < WIDTH_OF_LOGS:
        text = "\n".join(textwrap.wrap(text, console.width, break_long_words=False, break_on_hyphens=False))
    start = f"[bold]{escape(text[:bold])}[/bold]" if bold else ""
    console.print(start + escape(text[bold:]), soft_wrap=True)


def fitting(table: Table) -> list[Table]:
    """The table; where it is too wide without its spare columns, else several, each with the keys and some others."""
    least = [width(column, [row[number] for row in table.rows]) + 2 for number, column in enumerate(table.columns)]
    keys, others = [*range(table.keys)], [*range(table.keys, len(table.columns))]
    while sum(least[one] for one in (*keys, *others)) > console.width and any(
        table.columns[one].spare for one in others
    ):
        others.remove(max(one for one in others if table.columns[one].spare))
    parts: list[list[int]] = [[]]
    for number in others:
        if parts[-1] and sum(least[one] for one in (*keys, *parts[-1], number)) > console.width:
            parts.append([])
        parts[-1].append(number)
    return [table.only([*keys, *part]) for part in parts]


def width(column: Column, cells: list[Cell]) -> int:
    """Columns of the terminal that a column needs at least."""
    texts = [column.title, *(cell.text for cell in cells)]
    if column.kind == "number":
        return max(Text(text).cell_len for text in texts)
    longest = max((len(word) for text in texts for word in _jointed(text).split()), default=0)
    return min(longest, SHORTEST_NAME if column.kind == "name" else SHORTEST_TEXT)


def _rich_table(table: Table) -> RichTable:
    """A table without vertical lines, so that many columns fit."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(table.columns):
        whole = column.kind == "number"
        least = width(column, [row[number] for row in table.rows])
        drawn.add_column(
            escape(column.title), justify="right" if whole else "left", no_wrap=whole, overflow="fold", min_width=least
        )
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            drawn.add_section()
        drawn.add_row(*[markup(cell, column) for cell, column in zip(row, table.columns, strict=True)])
    return drawn


def markup(cell: Cell, column: Column) -> str:
    """A cell in its tone."""
    text = escape(_jointed(cell.text) if column.kind == "name" else cell.text)
    return f"[{TONES[cell.tone]}]{text}[/]" if cell.tone and text else text


def _jointed(name: str) -> str:
    """A name with places to break before its parts, where it is long."""
    return re.sub(r"(?<=\S)(?=[/:])", " ", name) if len(name) > SHORTEST_NAME else name

"""What a report is made of: a page of sections, each with sentences, tables, charts and pictures.

The same sections are printed (`dhox.reports.terminal`) and become an HTML page (`dhox.reports.html`). Texts are plain:
each renderer escapes them in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Where = Literal["both", "terminal", "page"]
Tone = Literal["", "good", "doubtful", "bad", "strong", "dim"]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, its width and height in pixels, what to say of it, and its name. On pages only; an image
    that stands in several places is embedded once."""

    uri: str
    size: tuple[int, int]
    text: str
    name: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `tip`: what a short mark means; `shade`: 0 to 1, darkness of a cell of a heat map; `opens`:
    the anchor of the section that a click on it shows, on pages."""

    text: str
    tone: Tone = ""
    tip: str = ""
    shade: float | None = None
    pictures: tuple[Picture, ...] = ()
    opens: str = ""


@dataclass(frozen=True)
class Column:
    """A column. `name`: may break at its joints (`/`, `:`, `_`); `number`: never; `text`: between words. `spare`: it
    stands in another table too, so a terminal that is too narrow leaves it out."""

    title: str
    kind: Literal["name", "number", "text"] = "number"
    where: Where = "both"
    spare: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first `keys` columns say what a row is about: a terminal that is too narrow shows the other
    columns in several tables, each with the keys. `breaks`: rows that begin a new group. `heat`: a map of shades."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    keys: int = 1
    breaks: frozenset[int] = frozenset()
    heat: bool = False

    def seen(self, where: Where) -> Table:
        """The table with the columns that the terminal, or the page, shows."""
        return self.only([number for number, column in enumerate(self.columns) if column.where in ("both", where)])

    def only(self, numbers: list[int]) -> Table:
        """The table with some of its columns."""
        columns = tuple(self.columns[number] for number in numbers)
        return replace(self, columns=columns, rows=tuple(tuple(row[number] for number in numbers) for row in self.rows))


@dataclass(frozen=True)
class Chart:
    """A chart, on pages only. `draw`: gives inline SVG."""

    title: str
    draw: Callable[[], str]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One subject: sentences, pictures, tables, notes and charts, then parts with titles of their own.

    `folded`: the page shows it when it is clicked; `marked`: it stands out. `anchor`: its address on the page; a part
    that has one is shown only when a cell `opens` it. `cards`: its parts stand side by side.
    """

    title: str = ""
    intro: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Section, ...] = ()
    folded: bool = False
    marked: bool = False
    anchor: str = ""
    cards: bool = False
    where: Where = "both"

    def holds(self, where: Where) -> bool:
        """Whether there is anything that the terminal, or the page, shows."""
        drawn = where == "page" and (self.charts or self.pictures)
        parts = any(part.holds(where) for part in self.parts)
        return self.where in ("both", where) and bool(self.intro or self.tables or drawn or self.notes or parts)


@dataclass(frozen=True)
class KeyNumber:
    """A number that a page shows large, and in a few words what it is."""

    value: str
    words: str


@dataclass(frozen=True)
class Verdict:
    """What a report comes to: one sentence, and the numbers behind it."""

    sentence: str
    numbers: tuple[KeyNumber, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report. `ends`: last lines on the terminal, never broken: paths, and what to do next."""

    title: str = ""
    subtitle: str = ""
    sections: tuple[Section, ...] = ()
    ends: tuple[str, ...] = ()
    verdict: Verdict | None = None

    def seen(self, where: Where) -> list[Section]:
        """The sections that the terminal, or the page, shows."""
        return [section for section in self.sections if section.holds(where)]


def cells(*values: Cell | str | int | None) -> tuple[Cell, ...]:
    """A row: texts and numbers as cells, None as an empty one."""
    return tuple(value if isinstance(value, Cell) else Cell("" if value is None else str(value)) for value in values)


def table(titles: str, rows: list[tuple[Cell, ...]], caption: str = "") -> tuple[Table, ...]:
    """A simple table as the `tables` of a section, none where there are no rows.

    `titles`: separated by `|`; the first is a name, the others are numbers, or texts where they begin with `<`, and
    texts on the page alone where they begin with `page:`.
    """
    first, *others = titles.split("|")
    columns = [Column(first, "name"), *map(_titled, others)]
    return (Table(tuple(columns), tuple(rows), caption),) if rows else ()


def _titled(title: str) -> Column:
    """A column by its title, see `table`."""
    if title.startswith("page:"):
        return Column(title.removeprefix("page:"), "text", "page")
    return Column(title.removeprefix("<"), "text" if title.startswith("<") else "number")

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dhox.console import console
from dhox.reports.html import write_page
from dhox.reports.sections import Cell, Chart, Column, Page, Section, Table, cells, table
from dhox.reports.terminal import show

ATTACK = "<b>[red]x[/red]</b>"


def printed(page: Page, width: int) -> list[str]:
    before = console.width
    console.width = width
    try:
        with console.capture() as capture:
            show(page)
    finally:
        console.width = before
    return capture.get().splitlines()


def every_part(text: str) -> Page:
    """A page that says `text` in every place."""
    whole = Table((Column(text, "name"), Column(text, "text")), (cells(text, Cell(text, "bad", text)),), text)
    chart = Chart(text, lambda: "<svg></svg>", text)
    section = Section(text, (text,), (whole,), (text,), (chart,))
    folded = Section(text, (text,), folded=True)
    return Page(text, text, (section, Section(text, parts=(section, folded))), (text,))


def test_user_text_is_escaped_everywhere(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", every_part(ATTACK)).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert page.count("&lt;b&gt;") >= 20
    text = "\n".join(printed(every_part(ATTACK), 100))
    assert text.count(ATTACK) >= 10


def test_a_wide_table_is_split_with_its_keys_and_spare_columns_are_left_out() -> None:
    columns = [Column("name", "name"), Column("batch"), *[Column(f"value {i}") for i in range(6)]]
    rows = tuple(cells(f"row{i}", i, *[f"{100 * i + j}" for j in range(6)]) for i in range(3))
    whole = Table((*columns, Column("extra", spare=True)), tuple((*row, Cell("again")) for row in rows), keys=2)
    text = printed(Page(sections=(Section(tables=(whole,)),)), 50)
    assert max(map(len, text)) <= 50
    assert sum(line.startswith("row2") for line in text) == 2
    for row in rows:
        for cell in row[2:]:
            assert any(line.startswith(row[0].text) and f" {cell.text} " in line for line in text)
    assert "again" not in "\n".join(text)
    assert "again" in "\n".join(printed(Page(sections=(Section(tables=(whole,)),)), 120))


def test_sentences_break_between_words_and_paths_never() -> None:
    path = "/a/rather/long/path/that/no/terminal/of/forty/columns/holds.json"
    text = printed(Page(sections=(Section(notes=(f"What was measured lies in {path} now.",)),), ends=(path,)), 40)
    assert sum(path in line for line in text) == 2
    assert all(len(line) <= 40 for line in text if path not in line)


@pytest.mark.parametrize(("where", "other"), [("terminal", "page"), ("page", "terminal")])
def test_what_is_for_one_place_is_not_in_the_other(tmp_path: Path, where: str, other: str) -> None:
    columns = (Column("name", "name"), Column("column-here", where=where), Column("column-there", where=other))
    sections = (
        Section("Both", tables=(Table(columns, (cells("a", "b", "c"),)),)),
        Section("section-here", ("line-here",), where=where),
        Section("section-there", ("line-there",), where=other),
    )
    if where == "page":
        text = write_page(tmp_path / "page.html", Page("p", "", sections)).read_text(encoding="utf-8")
    else:
        text = "\n".join(printed(Page("p", "", sections), 100))
    assert set(re.findall(r"\w+-(?:here|there)", text)) <= {"column-here", "section-here", "line-here"}
    assert {"column-here", "line-here"} <= set(re.findall(r"\w+-(?:here|there)", text))


def test_what_holds_nothing_is_left_out(tmp_path: Path) -> None:
    sections = (Section("Empty"), Section("None", tables=table("a|b", [])), Section("Parts", parts=(Section("x"),)))
    page = write_page(tmp_path / "page.html", Page("p", "", sections)).read_text(encoding="utf-8")
    assert "<h2>" not in page
    assert printed(Page("", "", sections), 80) == []

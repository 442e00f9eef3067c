"""What `dhox predict` answers, as sections: a row per image where they are few, else what they come to."""

from __future__ import annotations

from dhox.data.leftovers import counted
from dhox.predicting.rows import Row
from dhox.predicting.tally import Tally
from dhox.reports.sections import Cell, Column, Page, Section, Table, cells, table
from dhox.reports.text import percent

MOST_CLASSES = 10  # of many images, the commonest answers


def prediction_page(rows: list[Row], tally: Tally, left: list[str]) -> Page:
    """`rows`: those that are shown one by one, where they are all; `left`: what lies in folders and was no image."""
    listed = tuple(rows) if tally.images == len(rows) and not any(row.frame is not None for row in rows) else ()
    answers = Section(tables=(image_table(listed),)) if listed else answer_section(tally)
    return Page(sections=(answers, notes(tally, left)))


def image_table(rows: tuple[Row, ...]) -> Table:
    """The first classes of each image with their probabilities."""
    ranks = max(len(row.top) for row in rows)
    answered = any(row.unknown or row.error for row in rows)
    columns = (
        Column("image", "name"), *[Column("answer", "text")] * answered,
        *(Column(f"{rank}.", "text") for rank in range(1, ranks + 1)),
    )  # fmt: skip
    lines = []
    for row in rows:
        best = [f"{one.name} {100 * one.probability:.1f} %" for one in row.top]
        answer = Cell("not read", "bad") if row.error else Cell("unknown" if row.unknown else "")
        lines.append(cells(row.path, *[answer] * answered, *best, *[""] * (ranks - len(best))))
    return Table(columns, tuple(lines))


def answer_section(tally: Tally) -> Section:
    """How many images had which answer."""
    read = max(1, tally.images - tally.unreadable)
    common = tally.predicted.most_common(MOST_CLASSES)
    others = sum(tally.predicted.values()) - sum(count for _, count in common)
    rows = [(name, count) for name, count in common]
    rows += [(f"{len(tally.predicted) - len(common)} other classes", others)] if others else []
    rows += [("unknown", tally.unknown)] if tally.unknown else []
    lines = [cells(name, f"{count:,}", f"{100 * count / read:.1f}") for name, count in rows]
    return Section(counted(tally.images, "answer"), tables=table("answer|images|%", lines))


def notes(tally: Tally, left: list[str]) -> Section:
    """Accuracy where labels are known, what could not be read, and what was left out."""
    lines = []
    if accuracy := tally.accuracy:
        lines.append(f"Accuracy: {percent(accuracy)} on {counted(accuracy.n, 'image')} whose label is known.")
    if answered := tally.accuracy_of_answered:
        lines.append(f"Of them {answered.n:,} were answered, the others are unknown: {percent(answered)}.")
    if tally.outside:
        names = ", ".join(f"{count:,} {name}" for name, count in tally.outside.most_common(5))
        lines.append(f"Labels that are no class of this export, not counted: {names}.")
    if tally.unreadable:
        named = "; ".join(f"{row.path}: {row.error}" for row in tally.first_unreadable)
        more = tally.unreadable - len(tally.first_unreadable)
        others = f"; and {more:,} more" if more else ""
        lines.append(f"Could not be read: {tally.unreadable:,} of {tally.images:,}. {named}{others}.")
    return Section(notes=(*lines, *left))

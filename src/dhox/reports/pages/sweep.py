"""A sweep as sections: students by latency, and which to distill for a budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dhox.artefacts.files import SWEEP_FILE
from dhox.artefacts.record import read_record
from dhox.artefacts.sweep import KnownAccuracy, Sweep, SweepRow
from dhox.reports.charts import SMALL, plain_ticks, svg
from dhox.reports.html import write_page
from dhox.reports.sections import Cell, Chart, Column, KeyNumber, Page, Section, Table, Verdict, cells
from dhox.reports.text import count_text, percent, sentence, versions


def write_sweep_page(folder: Path) -> Path:
    """Write FOLDER/sweep.html from FOLDER/sweep.json."""
    return write_page(folder / "sweep.html", sweep_page(folder, read_record(folder / SWEEP_FILE, Sweep)))


def sweep_page(folder: Path, sweep: Sweep) -> Page:
    """The whole sweep."""
    asked, card = sweep.settings, sweep.device
    chip = card.gpu.name if card.gpu else card.cpu
    subtitle = f"{asked.precision}, batch {asked.batch}, scope {asked.scope}, on {card.host} ({chip})"
    subtitle += "" if sweep.status == "complete" else f"; {sweep.status}"
    known = [f"{row.student}: {source(row.accuracy)}." for row in sweep.rows if row.accuracy]
    sections = (
        Section(intro=tuple(sweep.choice.reasons[1:]) if sweep.choice else (), marked=True),
        Section("Against latency", charts=_sweep_charts(sweep)),
        _student_section(sweep),
        Section("Where the accuracies come from", notes=tuple(known)),
        Section("Method", notes=(*map(sentence, sweep.method), versions(sweep.environment)), where="page"),
    )
    return Page("Sweep of students by latency", subtitle, sections, (f"{folder / SWEEP_FILE}",), sweep_verdict(sweep))


def sweep_verdict(sweep: Sweep) -> Verdict:
    """Which student to distill for the budget; without one, which is the fastest and which is known to be the best."""
    rows, budget = sweep.rows, sweep.settings.budget_ms
    if not rows:
        return Verdict("No student was measured.")
    advised = sweep.choice.distill if sweep.choice else []
    named = next((row for student in advised for row in rows if row.student == student), rows[0])
    low, high = named.p50_interval
    numbers = [
        KeyNumber(f"{named.latency_ms.p50:.3g} ms", f"median of {named.student} ({low:.3g}-{high:.3g})"),
        KeyNumber(f"{named.parameters / 1e6:.1f} M", f"parameters of {named.student}, {named.bytes / 1e6:.1f} MB"),
    ]
    known = [row for row in rows if row.accuracy]
    if budget is not None:
        fit = sum(row.within is True for row in rows)
        numbers.append(KeyNumber(f"{fit} of {len(rows)}", f"students within {budget:g} ms"))
    elif known:
        best = max(known, key=lambda row: row.accuracy.accuracy if row.accuracy else 0)
        assert best.accuracy is not None
        numbers.append(KeyNumber(percent(best.accuracy), f"the best known accuracy, {best.student}"))
    else:
        numbers.append(KeyNumber(f"{len(rows)}", f"students measured, {len(sweep.failed)} not"))
    if sweep.choice:
        why, what = sweep.choice.reasons[0], f"Distill {'and compare ' * (len(advised) > 1)}{', '.join(advised)}"
        why = why[0].lower() + why[1:] if why.startswith("Within") else why
        return Verdict(f"{what}: {why}" if advised else sweep.choice.reasons[0], tuple(numbers))
    slowest = f", the slowest {rows[-1].student} with {rows[-1].latency_ms.p50:.3g} ms" if len(rows) > 1 else ""
    told = f"Fastest of {len(rows)}: {rows[0].student} with {rows[0].latency_ms.p50:.3g} ms{slowest}"
    return Verdict(f"{told}; no budget was given.", tuple(numbers))


def _student_section(sweep: Sweep) -> Section:
    """One row per student, fastest first, then what was not measured or is doubtful."""
    rows, asked, front = sweep.rows, sweep.settings, sweep.front.accuracy or sweep.front.parameters
    columns: dict[Column, Callable[[SweepRow], Cell | str]] = {
        Column("student", "name"): lambda row: (
            Cell(row.student + "*", "strong") if row.student in front else row.student
        ),
        Column("px"): lambda row: f"{row.image_size}",
        Column("M par."): lambda row: f"{row.parameters / 1e6:.1f}",
        Column("MB"): lambda row: f"{row.bytes / 1e6:.1f}",
    }
    if any(row.memory_bytes is not None for row in rows):
        columns[Column("memory, MB")] = lambda row: "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}"
    columns[Column("p50, ms (95 %)")] = lambda row: "{:.3g} ({:.3g}-{:.3g})".format(
        row.latency_ms.p50, *row.p50_interval
    )
    columns[Column("p99")] = lambda row: f"{row.latency_ms.p99:.3g}"
    columns[Column("images/s", where="page")] = lambda row: count_text(row.images_per_s)
    if any(row.mj_per_image is not None for row in rows):
        columns[Column("mJ")] = lambda row: count_text(row.mj_per_image)
    if any(row.accuracy for row in rows):
        columns[Column("accuracy, %")] = lambda row: percent(row.accuracy, "") if row.accuracy else ""
    if asked.budget_ms is not None:
        columns[Column("fits")] = lambda row: Cell("yes", "good") if row.within else Cell("no")
    listed = tuple(cells(*(value(row) for value in columns.values())) for row in rows)
    budget = "" if asked.budget_ms is None else f" Budget {asked.budget_ms:g} ms."
    caption = f"Fastest first; * on the Pareto front.{budget} mJ: per image." if rows else ""
    return Section("Students", tables=(Table(tuple(columns), listed, caption),) if rows else (), notes=notes(sweep))


def notes(sweep: Sweep) -> tuple[str, ...]:
    """What was not measured, and what is doubtful."""
    lines = [f"Not measured: {row.student}: {row.reason.rstrip('.')}." for row in sweep.failed]
    lines += [
        f"Memory of {row.student} not measured: {row.memory_note.rstrip('.')}." for row in sweep.rows if row.memory_note
    ]
    flagged = [f"{row.student} ({', '.join(row.flags)})" for row in sweep.rows if row.flags]
    lines += [f"Flags: {'; '.join(flagged)}."] if flagged else []
    lines += sorted({f"Emulated: {row.emulated}." for row in sweep.rows if row.emulated})
    if all(row.mj_per_image is None for row in sweep.rows):
        lines.append(sentence(f"Energy: {sweep.energy.note or 'not measured'}"))
    return tuple(lines)


def source(known: KnownAccuracy) -> str:
    """What an accuracy was measured on and with."""
    return f"{known.n:,} images of {known.split}, {known.method}, {known.what} ({known.run})"


def _sweep_charts(sweep: Sweep) -> tuple[Chart, ...]:
    """Accuracy, parameters and energy against latency, as far as they are known."""
    known = [row for row in sweep.rows if row.accuracy]
    metered = [row for row in sweep.rows if row.mj_per_image]
    front, budget = sweep.front, sweep.settings.budget_ms
    size = "The area of a point: the size of its file."
    charts = []
    if known:
        draw = partial(scatter, known, "accuracy, % (95 % interval)", front.accuracy, budget)
        charts.append(Chart("Accuracy", draw, size))
    if sweep.rows:
        draw = partial(scatter, sweep.rows, "parameters, millions", front.parameters, budget)
        charts.append(Chart("Parameters", draw, size))
    if metered:
        charts.append(Chart("Energy", partial(scatter, metered, "energy, mJ per image", [], budget), size))
    return tuple(charts)


def scatter(rows: list[SweepRow], what: str, front: list[str], budget_ms: float | None) -> str:
    """One quantity against median latency with its 95 % interval; a step line along the Pareto front, whose students
    have the second colour."""

    def draw(axes: Any) -> None:
        ax, largest = axes[0], max(row.bytes for row in rows)
        for row in rows:
            x, (low, high), colour = row.latency_ms.p50, row.p50_interval, "C1" if row.student in front else "C0"
            y, error = height(row, what)
            sides = {"xerr": [[max(0, x - low)], [max(0, high - x)]], "yerr": error}
            ax.errorbar(x, y, **sides, fmt="none", ecolor=colour, elinewidth=1)
            ax.scatter([x], [y], s=20 + 180 * row.bytes / largest, color=colour, alpha=0.7, linewidths=0)
            ax.annotate(row.student, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=SMALL)
        steps = sorted((row.latency_ms.p50, height(row, what)[0]) for row in rows if row.student in front)
        if len(steps) > 1:
            ax.step(*zip(*steps, strict=True), where="post", color="C1", linewidth=1, alpha=0.6)
        if budget_ms is not None:
            ax.axvline(budget_ms, color="gray", linestyle="--", linewidth=1)
            ax.annotate("budget", (budget_ms, 0.02), xycoords=("data", "axes fraction"), fontsize=SMALL, rotation=90)
        ax.set(xlabel="median latency, ms (95 % interval)", ylabel=what, xscale="log")
        ax.set_yscale("linear" if what.startswith("accuracy") else "log")
        ax.margins(0.15)
        ax.autoscale_view()
        plain_ticks(ax.xaxis)
        if ax.get_yscale() == "log":
            plain_ticks(ax.yaxis)

    return svg(draw)


def height(row: SweepRow, what: str) -> tuple[float, list[list[float]] | None]:
    """The quantity of a row, with its error bar."""
    if row.accuracy and what.startswith("accuracy"):
        middle, (low, high) = 100 * row.accuracy.accuracy, row.accuracy.interval
        return middle, [[middle - 100 * low], [100 * high - middle]]
    return (row.mj_per_image or 0.0) if what.startswith("energy") else row.parameters / 1e6, None

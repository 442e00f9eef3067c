"""What `dhox compare` found between two benches, as sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dhox.bench.compare import summary
from dhox.reports.sections import Cell, Page, Section, Tone, cells, table
from dhox.reports.text import milliseconds, share

if TYPE_CHECKING:
    from dhox.bench.compare import AccuracyChange, BenchComparison

TONES: dict[str, Tone] = {
    "faster": "good", "slower": "doubtful", "too slow": "bad", "too low": "bad", "not shown": "bad",
    "undecided": "doubtful",
}  # fmt: skip


def compare_page(found: BenchComparison) -> Page:
    """Latencies, accuracies, and what else differs between two benches."""
    times = [
        cells(
            *(row.model, row.runner, row.batch, row.scope, milliseconds(row.old_ms), milliseconds(row.new_ms)),
            "{:.3f} ({:.3f}-{:.3f})".format(row.ratio, *row.interval),
            Cell(row.verdict, TONES.get(row.verdict, "")),
        )
        for row in found.latency
    ]
    noise = f"Intervals from {found.latency_from}: noise within each bench, not what differs between sessions."
    unpaired = "Not paired: the two benches did not answer the same images, or predictions.csv is missing."
    answers = [_accuracy_cells(row) for row in found.accuracy]
    titles = "model|<runner|batch|<scope|old, ms|new, ms|new / old (95 %)|<verdict"
    drops = "model|<runner|old|new|drop, points (95 %)|<chance|<verdict"
    sections = (
        Section("Latency", tables=table(titles, times, "Median per call."), notes=(noise,) if times else ()),
        Section(
            "Accuracy", tables=table(drops, answers), notes=(unpaired,) * any(not row.paired for row in found.accuracy)
        ),
        Section(notes=(f"Not compared: {summary(found.not_compared)}.",) if found.not_compared else ()),
        Section(notes=(f"The benches differ: {'; '.join(found.warnings)}.",) if found.warnings else ()),
        Section(notes=tuple(f"Undecided: {line}." for line in found.undecided)),
    )
    return Page("", f"Old: {found.old}, new: {found.new}", sections)


def _accuracy_cells(row: AccuracyChange) -> tuple[Cell, ...]:
    chance = "could explain it" if row.chance else "could not"
    if row.mcnemar_p is not None:
        chance = f"p = {row.mcnemar_p:.2g} (+{row.gained} -{row.lost})"
    return cells(
        *(row.model, row.runner, f"{share(row.old)} %", f"{share(row.new)} %"),
        "{:.2f} ({:.2f} to {:.2f})".format(row.drop, *row.interval),
        chance,
        Cell(row.verdict, TONES.get(row.verdict, "")),
    )

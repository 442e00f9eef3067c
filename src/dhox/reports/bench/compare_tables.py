"""What `dhox compare` prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from dhox.console import console, say
from dhox.reports.bench.text import milliseconds

if TYPE_CHECKING:
    from dhox.bench.compare import BenchComparison

COLOURS = {"faster": "green", "slower": "yellow", "too slow": "red", "too low": "red", "undecided": "yellow"}


def print_compare(found: BenchComparison, as_json: bool) -> None:
    """Latencies, accuracies, and what else differs between two benches."""
    if as_json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    say(f"Old: {found.old}")
    say(f"New: {found.new}")
    if found.latency:
        table = Table("model", "runner", "batch", "scope", "old", "new", "new / old (95 %)", "verdict")
        table.title = "Median latency per call, ms"
        for row in found.latency:
            low, high = row.interval
            table.add_row(
                *[escape(row.subject), escape(row.runner), str(row.batch), row.scope],
                *[milliseconds(row.old_ms), milliseconds(row.new_ms), f"{row.ratio:.3f} ({low:.3f}-{high:.3f})"],
                coloured(row.verdict),
            )
        console.print(table)
        say(f"Intervals from {found.latency_from}: noise within each bench, not what differs between sessions.")
    if found.accuracy:
        table = Table("model", "runner", "old", "new", "drop, points (95 %)", "chance", "verdict", title="Accuracy")
        for answer in found.accuracy:
            low, high = answer.interval
            chance = "could explain it" if answer.chance else "could not"
            if answer.mcnemar_p is not None:
                chance = f"p = {answer.mcnemar_p:.2g} (+{answer.gained} -{answer.lost})"
            table.add_row(
                *[escape(answer.subject), escape(answer.runner)],
                *[f"{100 * answer.old:.1f} %", f"{100 * answer.new:.1f} %"],
                *[f"{answer.drop:.2f} ({low:.2f} to {high:.2f})", chance, coloured(answer.verdict)],
            )
        console.print(table)
        if not all(answer.paired for answer in found.accuracy):
            say("Not paired: the two benches did not answer the same images, or predictions.csv is missing.")
    for line in found.not_compared:
        say(f"Not compared: {line}.")
    for line in found.warnings:
        say(f"Note: {line}.")
    for line in found.undecided:
        say(f"Undecided: {line}.")


def coloured(verdict: str) -> str:
    """A verdict in its colour."""
    colour = COLOURS.get(verdict)
    return f"[{colour}]{verdict}[/{colour}]" if colour else verdict

"""Around training, for the terminal: methods over seeds, caches, and what a training would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dhox.artefacts.comparison import Comparison, MeanInterval
from dhox.artefacts.files import COMPARISON_FILE
from dhox.reports.sections import Cell, Page, Section, cells, table
from dhox.reports.text import duration, size_text

if TYPE_CHECKING:  # they import torch
    from dhox.distill.dry_run import Plan
    from dhox.distill.teachers.cache_upkeep import CacheEntry
    from dhox.export.graphs.known_students import Verdict

PARTS = {"ce_head": ", CE head", "kd_head": ", KD head", "dho_fixed": ", fixed"}


def comparison_page(out: Path, comparison: Comparison) -> Page:
    """Methods and stages over seeds: accuracy on test, mean and interval."""
    rows = [
        cells(
            row.method + PARTS.get(row.stage, ""),
            _mean_text(row),
            " ".join(f"{100 * value:.1f}" for value in row.accuracies),
            _mean_text(row.minus_dho, "+") if row.minus_dho else "",
        )
        for row in comparison.rows
    ]
    seeds = comparison.seeds
    over = f"{seeds} seeds, 95 % intervals over seeds" if seeds > 1 else "one seed, which gives no interval"
    caption = f"{comparison.n_test} test images, {over}."
    tables = table("method|accuracy, %|<each seed|minus dho, points", rows, caption)
    section = Section("Methods", tables=tables, notes=tuple(unbeaten(comparison)))
    return Page(sections=(section,), ends=(f"{out / COMPARISON_FILE}",))


def unbeaten(comparison: Comparison) -> list[str]:
    """Which simpler methods DHO is not shown to beat on validation."""
    rows = [(row.method, row.validation_minus_dho) for row in comparison.rows if row.method in {"sho", "kd"}]
    return [
        f"DHO is not shown to beat {method.upper()} on validation: {method.upper()} is {_mean_text(found, '+')} points "
        f"away from it. {method.upper()} has one head and needs no alpha and beta."
        for method, found in rows
        if found is not None and (found.interval is None or found.interval[1] >= 0)
    ]


def _mean_text(row: MeanInterval, sign: str = "") -> str:
    text = f"{100 * row.mean:{sign}.1f}"
    return text if row.interval is None else f"{text} ± {100 * (row.interval[1] - row.mean):.1f}"


def caches_page(found: list[CacheEntry]) -> Page:
    """Cache directories: what they hold, how much, and what is damaged."""
    rows = [
        cells(
            str(entry.folder),
            ", ".join([entry.rows, *(str(value) for value in entry.about.values())]),
            f"{entry.images:,}",
            " x ".join(str(side) for side in entry.shape),
            size_text(entry.bytes),
            Cell(f"{len(entry.damaged)} files damaged", "bad") if entry.damaged else Cell("whole", "good"),
        )
        for entry in found
    ]
    damaged = tuple(
        f"{entry.folder / name}: {reason}" for entry in found for name, reason in sorted(entry.damaged.items())
    )
    return Page(sections=(Section(tables=table("directory|<rows|images|row|size|<state", rows)),), ends=damaged)


def plan_page(plan: Plan, export: Verdict | None = None) -> Page:
    """What a training would cost, and whether its student can be exported."""
    rows = [cells("check, decode", f"{plan.n_training:,} + {plan.n_whole:,} images", duration(plan.decode_s))]
    if of := plan.teacher:
        passes = f"{of.passes:,} at {of.images_per_s:,.0f}/s"
        rows.append(cells("teacher passes", passes, duration(of.passes / of.images_per_s)))
        rows.append(cells("teacher cache", size_text(of.cache_bytes), ""))
    if packing := plan.packing:
        packed = f"{size_text(packing.bytes)} at {packing.side} px" if packing.side else "none"
        rows.append(cells("packed images", packed, duration(packing.seconds)))
    if training := plan.training:
        rate = f"{sum(steps.total for steps in training.steps):,} steps, {training.images_per_s:,.0f} images/s"
        rows.append(cells("training", rate, duration(training.seconds)))
    if export is not None:
        rows.append(cells("export", export.words, duration(export.seconds) if export.seconds else ""))
    rows.append(cells("peak memory", size_text(plan.memory_bytes), ""))
    rows.append(cells("free on disk", size_text(plan.free_bytes), ""))
    notes = ["Rates are measured here on random pixels; what a cache holds already is not subtracted."]
    notes.append("Nothing was written.")
    need = (plan.teacher.cache_bytes if plan.teacher else 0) + (plan.packing.bytes if plan.packing else 0)
    if need > plan.free_bytes:
        lower = "Lower --views or --packed-size, or choose --cache."
        notes.append(f"The disk is too small: {size_text(need)} are needed. {lower}")
    caption = f"On {plan.device}, {plan.processes} process(es)."
    return Page(sections=(Section("Dry run", tables=table("part|amount|time", rows, caption), notes=tuple(notes)),))

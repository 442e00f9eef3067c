"""What a bench comes to, in one sentence and three numbers: which model to ship for this device."""

from __future__ import annotations

from dataclasses import dataclass

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_accuracy import AccuracyRow
from dhox.artefacts.bench_latency import LatencyRow
from dhox.evidence.ledger import CHANCE
from dhox.reports.pages.bench_findings import OfModel, who
from dhox.reports.pages.device import chip
from dhox.reports.sections import KeyNumber, Verdict
from dhox.reports.text import count_text, milliseconds, percent, sentence, share

Pair = tuple[str, str]  # a model and its runner


@dataclass(frozen=True)
class Best:
    """The model that a bench speaks for, with its time and its accuracy, as far as they were measured."""

    model: str
    runner: str
    time: LatencyRow | None
    right: AccuracyRow | None


def told_latency(bench: Bench) -> list[LatencyRow]:
    """The times that a verdict compares: of the smallest batch, end to end where that was measured."""
    rows = bench.measured_latency
    measured = {row.scope for row in rows}
    scope = next((name for name in ("e2e", "device", "pipeline", "camera") if name in measured), None)
    rows = [row for row in rows if row.scope == scope]
    return [row for row in rows if row.batch == min(row.batch for row in rows)]


def best_of(bench: Bench) -> Best | None:
    """The fastest model that is not shown to be less accurate than the most accurate one; None where none answers as it
    should, or nothing was measured.

    Models that fail their golden check and, where anything was timed, those that were not, are left out.
    """
    failed = {(row.model, row.runner) for row in bench.golden if not row.passed}
    times = {(row.model, row.runner): row for row in told_latency(bench)}
    right = {(row.model, row.runner): row for row in bench.accuracy.rows}
    pairs = [pair for pair in (times or right) if pair not in failed]
    judged = [right[pair] for pair in pairs if pair in right]
    if judged:
        most = max(judged, key=lambda row: row.accuracy)
        pairs = [(row.model, row.runner) for row in judged if not is_worse(row, most, bench.accuracy.rows[0])]
    if not pairs:
        return None
    chosen = min(pairs, key=lambda pair: times[pair].latency_ms.p50) if times else pairs[0]
    return Best(*chosen, times.get(chosen), right.get(chosen))


def is_worse(row: AccuracyRow, most: AccuracyRow, first: AccuracyRow) -> bool:
    """Whether a model is shown to be less accurate than the most accurate one: by McNemar's test where one of them is
    the first, which all are paired with; else by its interval."""
    if row is most:
        return False
    if most is first and row.reference:
        return row.reference.lost > row.reference.gained and row.reference.mcnemar_p < CHANCE
    if row is first and most.reference:
        return most.reference.gained > most.reference.lost and most.reference.mcnemar_p < CHANCE
    return row.interval[1] < most.accuracy


def bench_verdict(bench: Bench) -> Verdict:
    """Which model, how good, how fast, and what an image costs."""
    best = best_of(bench)
    if best is None:
        failed = [row for row in bench.golden if not row.passed]
        if failed:
            return Verdict(f"Do not ship: {who(bench, failed[0])} fails its golden check here.")
        return Verdict("Nothing was measured that a verdict could rest on.")
    name, told, numbers = _name(bench, best), [], []
    if best.right:
        low, high = best.right.interval
        images = f"{best.right.n:,} {bench.accuracy.split} images"
        told.append(f"{percent(best.right)} on {images}")
        words = f"of {images} right ({100 * low:.1f}-{100 * high:.1f})"
        numbers.append(KeyNumber(f"{share(best.right.accuracy)} %", words))
    if best.time:
        row = best.time
        time = f"{milliseconds(row.latency_ms.p50)} ms"
        call = "per image" if row.batch == 1 else f"per batch of {row.batch}"
        told.append(f"{time} {call} on {chip(bench, row)}")
        numbers.append(
            KeyNumber(time, f"{call}, median, {row.scope}; 99 % within {milliseconds(row.latency_ms.p99)} ms")
        )
        numbers.append(_price(bench, best))
    doubts = [] if best.right else [sentence(bench.accuracy.note or "its accuracy was not measured").rstrip(".")]
    doubts += [] if best.time else ["no time"]
    started = "So far: " if bench.status != "complete" else ""
    verb = "ship " if best.right and best.time else ""
    text = f"{started}{verb}{name}: {', '.join([*told, *doubts])}."
    return Verdict(text[0].upper() + text[1:], tuple(numbers))


def _name(bench: Bench, best: Best) -> str:
    """The model's name, its runner where there are several, and its file where the name alone does not tell."""
    row: OfModel | None = best.time or best.right
    assert row is not None
    file = next(model.file for model in bench.models if model.name == best.model)
    return f"{who(bench, row)} ({file})"


def _price(bench: Bench, best: Best) -> KeyNumber:
    """Energy where it was measured, else the highest throughput."""
    mine = [row for row in bench.energy.rows if (row.model, row.runner) == (best.model, best.runner)]
    spent = [row for row in mine if row.mj_per_image is not None]
    if spent:
        least = min(spent, key=lambda row: row.mj_per_image)
        return KeyNumber(f"{count_text(least.mj_per_image)} mJ", f"per image at batch {least.batch}")
    rows = [row for row in bench.measured_latency if (row.model, row.runner) == (best.model, best.runner)]
    most = max(rows, key=lambda row: row.images_per_s)
    return KeyNumber(f"{count_text(most.images_per_s)}/s", f"images at batch {most.batch}, {most.scope}")

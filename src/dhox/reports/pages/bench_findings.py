"""What in a bench differs from what was asked or hoped for: letters in its tables, and sentences."""

from __future__ import annotations

from typing import Protocol

from dhox.artefacts.bench import Bench, LatencyRow, RunnerFacts
from dhox.bench.latency_statistics import order_statistic_ranks
from dhox.reports.text import named, sentence

MARKS = {  # letter in the tables -> what it means
    "E": "emulated: this device lacks the precision, so its time would say nothing",
    "F": "part of the graph fell back to the CPU",
    "G": "CUDA graph asked for, not captured",
    "P": "not proven to be computed in the precision that was asked",
    "T": "clocks were throttled",
    "D": "drift: slower or faster towards the end",
    "U": "unstable: round medians differ much (CV: their coefficient of variation)",
    "W": "warm-up did not become steady",
}
FLAG_MARKS = {"throttled": "T", "drift": "D", "unstable": "U", "not steady": "W"}


class OfModel(Protocol):
    """Whatever is about one model and runner."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def runner(self) -> str:
        """Name of the runner."""


def several_runners(bench: Bench) -> bool:
    """Whether a row must name its runner."""
    return len({row.runner for row in bench.latency} | {row.runner for row in bench.accuracy.rows}) > 1


def who(bench: Bench, row: OfModel) -> str:
    """A model, with its runner where there are several."""
    return f"{row.model} by {row.runner}" if several_runners(bench) else row.model


def _facts_of(bench: Bench, row: LatencyRow) -> RunnerFacts | None:
    wanted = (row.model, row.runner, row.batch)
    return next((one.facts for one in bench.runners if (one.model, one.runner, one.batch) == wanted), None)


def unproven(facts: RunnerFacts) -> bool:
    """Whether nothing proves that a runner computes in the precision that was asked."""
    return facts.precision_proven != facts.precision_asked


def marks(bench: Bench, row: LatencyRow) -> str:
    """The letters of MARKS that hold for a row that was timed."""
    facts = _facts_of(bench, row)
    found = {FLAG_MARKS[flag] for flag in row.flags if flag in FLAG_MARKS}
    if facts is not None:
        found |= {"F"} if facts.nodes_off_device else set()
        found |= {"G"} if facts.graph_asked and not facts.graph else set()
        found |= {"P"} if unproven(facts) else set()
    return "".join(mark for mark in MARKS if mark in found)


def not_as_asked(bench: Bench) -> list[str]:
    """What differs from what was asked or hoped for, a sentence per finding; empty where all is well."""
    found: dict[str, list[str]] = {}
    for row in bench.runners:
        reasons = _runner_findings(row.facts, (row.model, row.runner) in bench.emulated)
        for reason in reasons:
            found.setdefault(reason, []).append(f"{who(bench, row)}, batch {row.batch}")
    for (model, runner), why in bench.emulated.items():
        name = f"{model} by {runner}" if several_runners(bench) else model
        found.setdefault(f"Emulated, not timed: {why}", []).append(name)
    root = bench.device.sysroot
    recorded = f"Board, clocks and sensors were read below {root}: a recording, not this machine."
    lines = [f"{reason} - {named(names)}." for reason, names in found.items()]
    other = bench.accuracy.images.text if bench.accuracy.images else ""
    lines += [f"{other}."] if other else []
    return [recorded] * (root is not None) + lines + _flag_sentences(bench)


def _runner_findings(facts: RunnerFacts, is_emulated: bool) -> list[str]:
    """What one runner does otherwise than it was asked."""

    def because(note: str | None) -> str:
        return f" ({note})" if note else ""

    found = []
    if facts.nodes_off_device:
        found.append(f"{facts.nodes_off_device} nodes of the graph fell back to the CPU")
    if facts.graph_asked and not facts.graph:
        found.append(f"CUDA graph not captured{because(facts.graph_note)}")
    if unproven(facts) and not is_emulated:
        computed = facts.precision_proven or "something unproven"
        found.append(f"{facts.precision_asked} was asked, {computed} is computed{because(facts.precision_note)}")
    if facts.provider_asked and facts.provider and not facts.provider.startswith(facts.provider_asked):
        found.append(f"{facts.provider_asked} was asked, {facts.provider} was used")
    return found + [note.rstrip(".") for note in facts.notes]


def _flag_sentences(bench: Bench) -> list[str]:
    """Throttling, drift and instability, with the rows that show it."""
    rows = bench.measured_latency
    titles = {
        "drift": "Drift, round medians changed over the bench",
        "unstable": "Unstable, round medians differ",
        "not steady": "The warm-up did not become steady",
    }
    lines = []
    if bench.conditions and bench.conditions.throttled:
        which = flagged(bench, "throttled") or "no row was timed then"
        lines.append(f"Clocks were throttled during the bench: {', '.join(bench.conditions.throttled)} - {which}.")
    others = sorted({flag for row in rows for flag in row.flags} - {*FLAG_MARKS})
    for flag in (*titles, *others):
        if names := flagged(bench, flag):
            lines.append(f"{titles.get(flag, flag[0].upper() + flag[1:])} - {names}.")
    return lines


def flagged(bench: Bench, flag: str) -> str:
    """The rows that have a flag, with the numbers behind it; empty where there are none."""
    rows = bench.measured_latency
    found = [row for row in rows if flag in row.flags]
    if len(found) == len(rows) > 2:
        return f"all {len(rows)} rows{_flag_range(flag, found)}"
    return named(f"{who(bench, row)}, batch {row.batch}, {row.scope}{_flag_range(flag, [row])}" for row in found)


def _flag_range(flag: str, rows: list[LatencyRow]) -> str:
    """The lowest and highest number behind a flag, in brackets."""
    if flag == "drift":
        texts = [f"{100 * change:+.1f} %" for change in sorted(row.drift.change for row in rows)]
    elif flag == "unstable":
        texts = [f"CV {100 * cv:.1f} %" for cv in sorted(row.round_cv for row in rows)]
    else:
        return ""
    return f" ({texts[0]})" if texts[0] == texts[-1] else f" ({texts[0]} to {texts[-1].removeprefix('CV ')})"


def energy_lines(bench: Bench) -> list[str]:
    """What the energy figures hold, how wrong they may be, and which are doubtful; or why there are none."""
    energy = bench.energy
    if not energy.rows:
        return [sentence(f"Energy {energy.note or 'not measured'}")]
    estimate = " (a sum of rails: an estimate)" if energy.estimate else ""
    text = f"Energy by {energy.meter}" + (f", {' + '.join(energy.total)}{estimate}" if energy.total else "")
    text += f"; an uninterrupted window of {min(row.seconds for row in energy.rows):.0f} s or more for each row"
    if energy.idle:
        text += f"; {energy.idle.mean_w:.1f} W when idle, included in mJ/image"
    lines = [sentence(text)]
    lines += [sentence(f"Included: {energy.includes}")] if energy.includes else []
    lines += [sentence(f"Error of the sensor: {energy.error}")] if energy.error else []
    doubtful: dict[str, list[str]] = {}
    for row in energy.rows:
        for flag in row.flags:
            doubtful.setdefault(flag, []).append(f"{who(bench, row)}, batch {row.batch}, {row.scope}")
    return lines + [f"{flag[0].upper()}{flag[1:]} - {named(names)}." for flag, names in doubtful.items()]


def not_measured(bench: Bench) -> list[str]:
    """What was to be measured and was not, and why."""
    lines = [sentence(row.text) for row in bench.not_run]
    lines += [sentence(f"Accuracy {bench.accuracy.note}")] if bench.accuracy.note else []
    several = len(bench.ledgers) > 1
    for ledger in bench.ledgers:
        if ledger.note:
            lines.append(sentence(f"Ledger{' of ' + ledger.export if several else ''} on this device {ledger.note}"))
    if not bench.ledgers:
        lines.append("Ledger on this device not run: models of other tools have none.")
    for row in bench.streams:
        if row.p99_note:
            lines.append(f"p99 of {who(bench, row)}, batch {row.batch}, {row.streams} streams: {row.p99_note}.")
    return lines


def not_asked(bench: Bench) -> list[str]:
    """What nobody asked for, so that it is not missed."""
    left_out = sorted({"device", "e2e", "pipeline"} - {*bench.settings.scopes})
    lines = [f"Scopes not asked for: {', '.join(left_out)}."] if left_out else []
    lines += [] if bench.settings.streams else ["Concurrent streams: not asked for."]
    return lines + ([] if bench.cross_checks else ["Cross-check by trtexec: not run."])


def interval_lines(bench: Bench) -> list[str]:
    """Which intervals there are beyond those that `method` explains, and which are missing."""
    rows = bench.latency
    missing = [row for row in rows if row.p99_interval is None]
    few = [row for row in missing if order_statistic_ranks(row.effective.calls_at_p99, 0.99) is None]
    reasons = (
        (len(few), "too few independent calls bound it (a longer --duration has more)"),
        (len(missing) - len(few), "the levels of its rounds differ (locked clocks and an idle machine help)"),
    )
    lines = [f"p99 has no interval in {count} of {len(rows)} rows: {why}." for count, why in reasons if count]
    if bench.accuracy.rows:
        lines.append("Accuracy: Wilson's 95 % interval; two models on the same images: McNemar's exact test.")
    return lines

"""`dhox compare`: two finished benches, row by row, with intervals and gates.

The two were not measured in the same rounds, so nothing is paired: what differs between two sessions on one machine
(temperature, memory layout, neighbours) is part of every ratio here, and not of its interval. `dhox bench A B` measures
both at once, and tells smaller differences apart.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from math import exp, hypot, log, log1p, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, read_json, read_npz
from dhox.bench.latency_statistics import NO_DIFFERENCE, OPENING, median_interval
from dhox.errors import DhoxError, UsageError
from dhox.evidence.statistics import mcnemar_p, paired_difference_interval

RULE = (
    "a latency fails where the ratio of medians exceeds the limit and its 95 % interval excludes 1; where noise alone "
    "could explain the ratio it is undecided; an accuracy fails where the drop in points exceeds the limit; with a "
    "limit, what the old bench measured and the new one did not fails too, and a failed golden check of the new one"
)
LONGER = "measure both again with a longer --duration on an idle machine with locked clocks, or both at once"
CLOCKS_DIFFER = 0.03  # relative difference of median clocks that is worth a warning
CARD = {  # what makes two machines different, and how it is called
    "host": "host",
    "machine": "architecture",
    "cpu": "processor",
    "cpu_cores": "cores",
    "gpu.name": "GPU",
    "gpu.driver": "driver",
    "jetson.model": "board",
    "jetson.l4t": "L4T",
    "jetson.power_mode.name": "power mode",
    "jetson.jetson_clocks": "jetson_clocks",
    "jetson.gpu_clock_mhz.max": "highest GPU clock, MHz",
    "jetson.memory_clock_mhz": "memory clock, MHz",
}


@dataclass(frozen=True)
class LatencyChange:
    """One (subject, runner, batch, scope) of both benches: medians in ms, `ratio` = new / old with its 95 %
    interval. `verdict`: faster, slower, no difference shown; with a limit also too slow, undecided."""

    subject: str
    runner: str
    batch: int
    scope: str
    old_ms: float
    new_ms: float
    ratio: float
    interval: tuple[float, float]
    verdict: str


@dataclass(frozen=True)
class AccuracyChange:
    """One (subject, runner) of both benches: accuracies in [0, 1], `drop` = old - new in points with its 95 % interval.

    `paired`: both answered the same images, and `gained`, `lost` and McNemar's p are known. `chance`: whether chance
    could explain the difference. `verdict`: ok, or too low where the drop exceeds the limit.
    """

    subject: str
    runner: str
    old: float
    new: float
    n_old: int
    n_new: int
    drop: float
    interval: tuple[float, float]
    paired: bool
    gained: int | None
    lost: int | None
    mcnemar_p: float | None
    chance: bool
    verdict: str


@dataclass(frozen=True)
class BenchComparison:
    """What `dhox compare` found. `latency_from`: the intervals' source; `not_compared`: rows without a
    partner, or emulated, and why;
    `failures`, `undecided`: one sentence per row that the limits concern; `warnings`: what else differs."""

    old: str
    new: str
    rule: str
    latency_from: str
    latency: list[LatencyChange]
    accuracy: list[AccuracyChange]
    not_compared: list[str]
    warnings: list[str]
    failures: list[str]
    undecided: list[str]


def compare(
    old: Path, new: Path, max_slowdown: float | None = None, max_accuracy_drop: float | None = None
) -> BenchComparison:
    """Compare two benches, each given as its directory or its bench.json.

    `max_slowdown`: the highest ratio of medians new / old, 1 or more; `max_accuracy_drop`: in points; None: no gate.
    With a limit, a row of the old bench that the new one lacks is a failure, and so is a failed golden check of the new
    one. Raises UsageError for limits that make no sense, DhoxError for benches that are not complete, that have nothing
    in common, or that lack what a limit is about.
    """
    if max_slowdown is not None and not 1 <= max_slowdown < float("inf"):
        raise UsageError(
            f"--max-slowdown {max_slowdown:g} is a ratio of times of 1 or more.", "Write for example 1.05."
        )
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop <= 100:
        raise UsageError(f"--max-accuracy-drop {max_accuracy_drop:g} is in points, 0 to 100.", "Write for example 0.5.")
    contents = [read_bench(path) for path in (old, new)]
    folders = [path if path.is_dir() else path.parent for path in (old, new)]
    try:
        latency, source, alone = latency_changes(contents, folders, max_slowdown)
        accuracy, uncompared = accuracy_changes(contents, folders, max_accuracy_drop)
        warnings = differences(contents)
        missing = missing_rows(contents, max_slowdown is not None, max_accuracy_drop is not None)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as err:
        raise DhoxError(
            f"{old} or {new} is not a whole bench.json ({err!r}).", "Measure again with this version of dhox bench."
        ) from err
    if not latency and not accuracy:
        raise DhoxError(
            f"The two benches have no (subject, runner, batch, scope) in common: {'; '.join(alone)}.",
            "Measure both with the same options of dhox bench.",
        )
    if max_slowdown is not None and not latency:
        raise DhoxError("--max-slowdown: the benches have no latency in common.", "Measure the same batches in both.")
    if max_accuracy_drop is not None and not accuracy:
        raise DhoxError(
            "--max-accuracy-drop: the benches have no accuracy in common.", "Give dhox bench --data for both."
        )
    failures = [
        f"{name(row)} is {row.ratio:.3f} times as slow ({row.interval[0]:.3f}-{row.interval[1]:.3f}), the limit is "
        f"{max_slowdown:g}"
        for row in latency
        if row.verdict == "too slow"
    ]
    failures += [
        f"{row.subject} by {row.runner} lost {row.drop:.2f} points "
        f"({'chance could explain it' if row.chance else 'beyond chance'}), the limit is {max_accuracy_drop:g}"
        for row in accuracy
        if row.verdict == "too low"
    ]
    failures += missing
    undecided = [
        f"{name(row)}: {row.ratio:.3f} exceeds {max_slowdown:g}, but noise could explain it ({row.interval[0]:.3f}-"
        f"{row.interval[1]:.3f}): {LONGER} (dhox bench OLD NEW)"
        for row in latency
        if row.verdict == "undecided"
    ]
    return BenchComparison(
        str(old), str(new), RULE, source, latency, accuracy, [*alone, *uncompared], warnings, failures, undecided
    )


def read_bench(path: Path) -> dict[str, Any]:
    """The content of a complete bench.json."""
    file = path / BENCH_FILE if path.is_dir() else path
    if file.exists() and file.suffix != ".json":
        raise DhoxError(f"{path} is no bench.", f"Give a bench directory, or its {BENCH_FILE}.")
    content = read_json(file, BENCH_SCHEMA)
    if content.get("status") != "complete":
        raise DhoxError(f"{file} is {content.get('status')}, not complete.", "Run that bench to its end first.")
    return content


def latency_changes(
    contents: list[dict[str, Any]], folders: list[Path], limit: float | None
) -> tuple[list[LatencyChange], str, list[str]]:
    """Matched rows, where their intervals come from, and what has no partner or is emulated."""
    rows = [{latency_key(row): row for row in content["latency"]} for content in contents]
    files = [folder / "samples.npz" for folder in folders]
    samples = [read_samples(file) for file in files]
    from_samples = all(samples)
    changes, alone = [], []
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        words = f"{key[0]} by {key[1]}, batch {key[2]}, {key[3]}"
        if key not in rows[0] or key not in rows[1]:
            alone.append(f"{words}: only in the {'old' if key in rows[0] else 'new'} bench")
            continue
        pair = [one[key] for one in rows]
        if any(row["emulated"] for row in pair):
            alone.append(f"times of {key[0]} by {key[1]}: its precision is emulated here")
            continue
        medians = [float(row["latency_ms"]["p50"]) for row in pair]
        intervals = [
            sampled_interval(arrays, row["samples"], file) if from_samples else row["p50_interval"]
            for arrays, row, file in zip(samples, pair, files, strict=True)
        ]
        ratio, *ends = ratio_interval(medians, intervals)
        interval = (ends[0], ends[1])
        changes.append(LatencyChange(*key, medians[0], medians[1], ratio, interval, verdict(ratio, interval, limit)))
    source = "samples.npz of both benches" if from_samples else "bench.json (a samples.npz is missing)"
    return changes, source, list(dict.fromkeys(alone))


def read_samples(file: Path) -> dict[str, np.ndarray]:
    """The raw samples of a bench; empty where the file is missing."""
    try:
        return read_npz(file) if file.exists() else {}
    except DhoxError as err:
        raise DhoxError(
            f"{file} is damaged.",
            "Copy it again from where the bench was measured, or delete it (the intervals in "
            f"{BENCH_FILE} then serve).",
        ) from err


def missing_rows(contents: list[dict[str, Any]], latency: bool, accuracy: bool) -> list[str]:
    """What a gate cannot hold: rows of the old bench that the new one lacks, of latencies and accuracies where these
    have a limit (a latency emulated in the old bench has no gate), and golden checks that fail in the new one."""
    found = []
    if latency:
        timed = [[latency_key(row) for row in content["latency"] if not row["emulated"]] for content in contents]
        found += [
            f"{subject} by {runner}, batch {batch}, {scope}, has no time in the new bench"
            for subject, runner, batch, scope in timed[0]
            if (subject, runner, batch, scope) not in timed[1]
        ]
    if accuracy:
        judged = [[(row["subject"], row["runner"]) for row in content["accuracy"]["rows"]] for content in contents]
        found += [f"{key[0]} by {key[1]} has no accuracy in the new bench" for key in judged[0] if key not in judged[1]]
    if latency or accuracy:
        wrong = dict.fromkeys((row["subject"], row["runner"]) for row in contents[1]["golden"] if not row["passed"])
        found += [f"{subject} by {runner} failed its golden check in the new bench" for subject, runner in wrong]
    return found


def latency_key(row: dict[str, Any]) -> tuple[str, str, int, str]:
    """What two rows must share."""
    return row["subject"], row["runner"], row["batch"], row["scope"]


def name(row: LatencyChange) -> str:
    """A row in words."""
    return f"{row.subject} by {row.runner}, batch {row.batch}, {row.scope}"


def sampled_interval(arrays: dict[str, np.ndarray], key: str, file: Path) -> list[float]:
    """The 95 % interval of a median in ms, from its raw samples."""
    if key not in arrays or f"{key}_rounds" not in arrays:
        raise DhoxError(f"{file} has no samples {key}.", "It belongs to another bench: restore it, or delete it.")
    ends = np.cumsum(arrays[f"{key}_rounds"])
    if len(ends) == 0 or ends[-1] != len(arrays[key]) or (np.diff(ends, prepend=0) < 1).any():
        raise DhoxError(f"{file} does not hold the rounds of {key}.", "Delete it, or measure again.")
    low, high, _ = median_interval(np.split(arrays[key], ends[:-1]))
    return [low / 1e6, high / 1e6]


def difference_interval(values: list[float], intervals: list[list[float]]) -> tuple[float, tuple[float, float]]:
    """`second - first` of two independent estimates, and its 95 % interval from theirs (MOVER: Zou and Donner 2008; of
    two proportions with Wilson's intervals it is Newcombe's method 10)."""
    (first, second), ((first_low, first_high), (second_low, second_high)) = values, intervals
    difference = second - first
    down = sqrt((second - second_low) ** 2 + (first_high - first) ** 2)
    up = sqrt((second_high - second) ** 2 + (first - first_low) ** 2)
    return difference, (difference - down, difference + up)


def ratio_interval(medians: list[float], intervals: list[list[float]]) -> tuple[float, float, float]:
    """Second median over the first, and its 95 % interval from theirs, with what opening a model again does."""
    logs = [log(median) for median in medians]
    ratio, (low, high) = difference_interval(logs, [[log(end) for end in ends] for ends in intervals])
    opening = log1p(OPENING)
    return exp(ratio), exp(ratio - hypot(ratio - low, opening)), exp(ratio + hypot(high - ratio, opening))


def verdict(ratio: float, interval: tuple[float, float], limit: float | None) -> str:
    """A latency's verdict by RULE."""
    excludes = not interval[0] <= 1 <= interval[1]
    if limit is not None and ratio > limit:
        return "too slow" if excludes else "undecided"
    if not excludes:
        return NO_DIFFERENCE
    return "faster" if ratio < 1 else "slower"


def accuracy_changes(
    contents: list[dict[str, Any]], folders: list[Path], limit: float | None
) -> tuple[list[AccuracyChange], list[str]]:
    """Matched rows, and what has no partner."""
    rows = [{(row["subject"], row["runner"]): row for row in content["accuracy"]["rows"]} for content in contents]
    answers = [read_predictions(folder / "predictions.csv") for folder in folders]
    changes, alone = [], []
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        if key not in rows[0] or key not in rows[1]:
            alone.append(f"accuracy of {key[0]} by {key[1]}: only in the {'old' if key in rows[0] else 'new'} bench")
            continue
        before, after = (one[key] for one in rows)
        first, second = (one.get(key) for one in answers)
        drop = 100 * (before["accuracy"] - after["accuracy"])
        gained = lost = p = None
        paired = same_images(first, second) and len(first or {}) == before["n"] == after["n"]
        if paired and first is not None and second is not None:
            right = [{path: label == answer for path, (label, answer) in one.items()} for one in (first, second)]
            gained = sum(right[1][path] and not right[0][path] for path in first)
            lost = sum(right[0][path] and not right[1][path] for path in first)
            p = mcnemar_p(gained, lost)
            low, high = paired_difference_interval(lost, gained, len(first))
            chance = p > 0.05
        else:
            _, (low, high) = difference_interval(
                [after["accuracy"], before["accuracy"]], [after["interval"], before["interval"]]
            )
            chance = low <= 0 <= high
        changes.append(
            AccuracyChange(
                *key, before["accuracy"], after["accuracy"], before["n"], after["n"], drop, (100 * low, 100 * high),
                paired, gained, lost, p, chance, "too low" if limit is not None and drop > limit + 1e-9 else "ok",
            )
        )  # fmt: skip
    return changes, alone


Answers = dict[str, tuple[str, str]]  # path -> (label, predicted)


def read_predictions(path: Path) -> dict[tuple[str, str], Answers]:
    """(subject, runner) -> answers; empty where the file is missing. Raises DhoxError for another table."""
    found: dict[tuple[str, str], Answers] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = (row["subject"], row["runner"])
                found.setdefault(key, {})[row["path"]] = (row["label"], row["predicted"])
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, ValueError, csv.Error) as err:
        raise DhoxError(f"{path} is damaged ({err!r}).", "Delete it (accuracies are then compared unpaired).") from err
    return found


def same_images(first: Answers | None, second: Answers | None) -> bool:
    """Whether both answered the same images with the same labels."""
    if not first or not second:
        return False
    return {path: label for path, (label, _) in first.items()} == {path: label for path, (label, _) in second.items()}


def differences(contents: list[dict[str, Any]]) -> list[str]:
    """What differs between the two benches but the models, and what makes either doubtful, in sentences."""
    warnings = []
    cards = [content["device"] for content in contents]
    for path, words in CARD.items():
        before, after = (look_up(card, path) for card in cards)
        if before != after:
            warnings.append(f"{words}: {before} then {after}")
    for clock in ("gpu_clock_mhz", "memory_clock_mhz", "cpu_clock_mhz"):
        before, after = (look_up(content, f"conditions.{clock}.median") for content in contents)
        if before and after and abs(after / before - 1) > CLOCKS_DIFFER:
            warnings.append(f"median {clock.split('_')[0].upper()} clock: {before:,.0f} then {after:,.0f} MHz")
    locked = [look_up(content, "conditions.locked") for content in contents]
    if locked[0] != locked[1]:
        warnings.append(f"clocks locked: {yes(locked[0])} then {yes(locked[1])}")
    for content, which in zip(contents, ("old", "new"), strict=True):
        throttled = look_up(content, "conditions.throttled")
        if throttled:
            warnings.append(f"the {which} bench was throttled: {', '.join(throttled)}")
        real = [row for row in content["latency"] if not row["emulated"]]
        for flag, count in Counter(flag for row in real for flag in row["flags"]).items():
            warnings.append(f"the {which} bench flags {count} of {len(real)} latencies: {flag}")
        for row in content["golden"]:
            if not row["passed"]:
                warnings.append(f"{row['subject']} by {row['runner']} failed its golden check in the {which} bench")
    for path, words in {"settings.images": "images timed", "accuracy.data": "accuracy's data"}.items():
        before, after = (look_up(content, path) for content in contents)
        if before != after:
            warnings.append(f"{words}: {before} then {after}")
    facts = [{(row["subject"], row["runner"], row["batch"]): row for row in content["runners"]} for content in contents]
    seen = set()
    for key in facts[0].keys() & facts[1].keys():
        for fact in ("provider", "graph", "precision_proven", "nodes_off_device"):
            before, after = (one[key].get(fact) for one in facts)
            if before != after:
                seen.add(f"{fact.replace('_', ' ')} of {key[0]} by {key[1]}: {before} then {after}")
    return warnings + sorted(seen)


def look_up(content: Any, path: str) -> Any:
    """The value under dotted keys; None where a level is missing."""
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def yes(value: bool | None) -> str:
    """A flag in words."""
    return "not known" if value is None else "yes" if value else "no"

"""`dhox compare`: two finished benches, row by row, with intervals and gates.

The two were not measured in the same rounds, so nothing is paired: what differs between two sessions on one machine
(temperature, memory layout, neighbours) is part of every ratio here, and not of its interval. `dhox bench A B` measures
both at once, and tells smaller differences apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import exp, hypot, log, log1p, sqrt
from pathlib import Path
from typing import Literal

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_accuracy import AccuracyRow
from dhox.artefacts.bench_latency import Key
from dhox.artefacts.files import BENCH_FILE, settle_any
from dhox.artefacts.predictions import PREDICTIONS_FILE, Answers, read_predictions
from dhox.artefacts.record import Interval, read_head, read_record
from dhox.artefacts.samples import SAMPLES_FILE, Samples, read_samples
from dhox.bench.compare_warnings import differences
from dhox.bench.latency_statistics import NO_DIFFERENCE, OPENING, median_interval
from dhox.errors import DhoxError, not_there
from dhox.evidence.statistics import (
    Z_95_ONE_SIDED,
    mcnemar_p,
    paired_difference_interval,
    paired_lower_bound,
    wilson_interval,
)

RULE = (
    "a latency fails where the ratio of medians exceeds the limit and its 95 % interval excludes 1; where noise alone "
    "could explain the ratio it is undecided; an accuracy fails where images were lost and the one-sided 95 % bound of "
    "the drop exceeds the limit in points; with a limit, what the old bench measured and the new one did not fails "
    "too, and a failed golden check of the new one"
)
LONGER = "measure both again with a longer --duration on an idle machine with locked clocks, or both at once"


MOST_NAMED = 6  # models that one sentence names


@dataclass(frozen=True)
class LatencyChange:
    """One latency of both benches: medians in ms, `ratio` = new / old with its 95 % interval.

    `verdict`: with a limit also too slow, undecided.
    """

    model: str
    runner: str
    batch: int
    scope: str
    old_ms: float
    new_ms: float
    ratio: float
    interval: Interval
    verdict: Literal["faster", "slower", "no difference shown", "too slow", "undecided"]

    @property
    def text(self) -> str:
        """What it is about."""
        return f"{self.model} by {self.runner}, batch {self.batch}, {self.scope}"


@dataclass(frozen=True)
class AccuracyChange:
    """One (model, runner) of both benches: accuracies in [0, 1], `drop` = old - new in points with its 95 % interval;
    `bound`: one-sided 95 %, 0 where the same images lost not one.

    `paired`: both answered the same images, and `gained`, `lost` and McNemar's p are known. `chance`: whether chance
    could explain the difference. `verdict`: ok; with a limit too low where the drop exceeds it, and not shown where its
    bound does.
    """

    model: str
    runner: str
    old: float
    new: float
    n_old: int
    n_new: int
    drop: float
    interval: Interval
    bound: float
    paired: bool
    gained: int | None
    lost: int | None
    mcnemar_p: float | None
    chance: bool
    verdict: Literal["ok", "too low", "not shown"]


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


@dataclass(frozen=True)
class Side:
    """One of the two benches, with its raw samples (None: not there) and single answers."""

    bench: Bench
    samples: Samples | None
    answers: dict[tuple[str, str], Answers]


def compare(
    old: Path, new: Path, max_slowdown: float | None = None, max_accuracy_drop: float | None = None
) -> BenchComparison:
    """Compare two benches, each given as its directory or its bench.json.

    `max_slowdown`: the highest ratio of medians new / old, 1 or more; `max_accuracy_drop`: in points; None: no gate.
    With a limit, a row of the old bench that the new one lacks is a failure, and so is a failed golden check of the new
    one. Raises DhoxError for benches that are not complete, that have nothing in common, or that lack what a limit is
    about.
    """
    sides = _open_side(old), _open_side(new)
    latency, source, alone = _latency_changes(*sides, max_slowdown)
    accuracy, uncompared = _accuracy_changes(*sides, max_accuracy_drop)
    if not latency and not accuracy:
        raise DhoxError(
            f"The two benches have no (model, runner, batch, scope) in common: {summary(alone)}.",
            "Measure both with the same options of dhox bench.",
        )
    if max_slowdown is not None and not latency:
        raise DhoxError("--max-slowdown: the benches have no latency in common.", "Measure the same batches in both.")
    if max_accuracy_drop is not None and not accuracy:
        raise DhoxError(
            "--max-accuracy-drop: the benches have no accuracy in common.", "Give dhox bench --data for both."
        )
    failures = [
        f"{row.text} is {row.ratio:.3f} times as slow ({row.interval[0]:.3f}-{row.interval[1]:.3f}), the limit is "
        f"{max_slowdown:g}"
        for row in latency
        if row.verdict == "too slow"
    ]
    failures += [
        f"{row.model} by {row.runner} lost {row.drop:.2f} points "
        f"({'chance could explain it' if row.chance else 'beyond chance'}), by the 95 % bound up to {row.bound:.2f}, "
        f"the limit is {max_accuracy_drop:g}"
        for row in accuracy
        if row.verdict != "ok"
    ]
    failures += _missing_rows(*sides, max_slowdown is not None, max_accuracy_drop is not None)
    undecided = [
        f"{row.text}: {row.ratio:.3f} exceeds {max_slowdown:g}, but noise could explain it ({row.interval[0]:.3f}-"
        f"{row.interval[1]:.3f}): {LONGER} (dhox bench OLD NEW)"
        for row in latency
        if row.verdict == "undecided"
    ]
    warnings = differences(sides[0].bench, sides[1].bench)
    return BenchComparison(
        str(old), str(new), RULE, source, latency, accuracy, [*alone, *uncompared], warnings, failures, undecided
    )


def summary(not_compared: list[str]) -> str:
    """What has no partner, by the reason and by the model: `WHY: MODEL (ROWS), ...; WHY: ...`."""
    found: dict[str, Counter[str]] = {}
    for line in not_compared:
        what, _, why = line.rpartition(": ")
        found.setdefault(why, Counter())[what.partition(", batch ")[0]] += 1
    return "; ".join(f"{why}: {_counted(models)}" for why, models in found.items())


def _counted(models: Counter[str]) -> str:
    """Models with how many of their rows, the first few of many."""
    shown = [f"{name} ({count} rows)" if count > 1 else name for name, count in [*models.items()][:MOST_NAMED]]
    rest = len(models) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _open_side(path: Path) -> Side:
    """A complete bench with what lies beside it. Raises DhoxError."""
    settle_any(path)
    if not path.exists():
        raise not_there(path, f"Give a bench directory, or its {BENCH_FILE}.")
    file = path / BENCH_FILE if path.is_dir() else path
    if file.exists() and file.suffix != ".json":
        raise DhoxError(f"{path} is no bench.", f"Give a bench directory, or its {BENCH_FILE}.")
    if read_head(file).status not in {"complete", ""}:
        raise DhoxError(f"{file} is {read_head(file).status}, not complete.", "Run that bench to its end first.")
    bench = read_record(file, Bench)
    samples = read_samples(file.parent / SAMPLES_FILE, bench)
    return Side(bench, samples, read_predictions(file.parent / PREDICTIONS_FILE))


def _latency_changes(old: Side, new: Side, limit: float | None) -> tuple[list[LatencyChange], str, list[str]]:
    """Matched rows, where their intervals come from, and what has no partner or is emulated."""
    before, after = ({row.key: row for row in side.bench.latency} for side in (old, new))
    emulated = old.bench.emulated | new.bench.emulated
    changes, alone = [], []
    for key in dict.fromkeys([*before, *after]):
        if key[:2] in emulated:
            continue
        if key not in before or key not in after:
            alone.append(f"{key.text}: only in the {'old' if key in before else 'new'} bench")
            continue
        rows = before[key], after[key]
        intervals = rows[0].p50_interval, rows[1].p50_interval
        if old.samples and new.samples:
            intervals = sampled_interval(old.samples, key), sampled_interval(new.samples, key)
        medians = rows[0].latency_ms.p50, rows[1].latency_ms.p50
        ratio, interval = ratio_interval(medians, intervals)
        changes.append(LatencyChange(*key, *medians, ratio, interval, verdict(ratio, interval, limit)))
    both = old.samples and new.samples
    source = "samples.npz of both benches" if both else "bench.json (a samples.npz is missing)"
    alone += [f"times of {model} by {runner}: its precision is emulated here" for model, runner in emulated]
    return changes, source, alone


def sampled_interval(samples: Samples, key: Key) -> Interval:
    """The 95 % interval of a median in ms, from its raw samples."""
    low, high, _ = median_interval(samples.calls[key].rounds)
    return low / 1e6, high / 1e6


def _missing_rows(old: Side, new: Side, latency: bool, accuracy: bool) -> list[str]:
    """What a gate cannot hold: rows of the old bench that the new one lacks, of latencies and accuracies where these
    have a limit (a latency emulated in the old bench has no gate), and golden checks that fail in the new one."""
    found = []
    if latency:
        before, after = ([row.key for row in side.bench.measured_latency] for side in (old, new))
        found += [f"{key.text}, has no time in the new bench" for key in before if key not in after]
    if accuracy:
        told, now = ([(row.model, row.runner) for row in side.bench.accuracy.rows] for side in (old, new))
        found += [f"{key[0]} by {key[1]} has no accuracy in the new bench" for key in told if key not in now]
    if latency or accuracy:
        wrong = dict.fromkeys((row.model, row.runner) for row in new.bench.golden if not row.passed)
        found += [f"{model} by {runner} failed its golden check in the new bench" for model, runner in wrong]
    return found


def difference_interval(values: tuple[float, float], intervals: tuple[Interval, Interval]) -> tuple[float, Interval]:
    """`second - first` of two independent estimates, and its 95 % interval from theirs (MOVER: Zou and Donner 2008; of
    two proportions with Wilson's intervals it is Newcombe's method 10)."""
    (first, second), ((first_low, first_high), (second_low, second_high)) = values, intervals
    difference = second - first
    down = sqrt((second - second_low) ** 2 + (first_high - first) ** 2)
    up = sqrt((second_high - second) ** 2 + (first - first_low) ** 2)
    return difference, (difference - down, difference + up)


def ratio_interval(medians: tuple[float, float], intervals: tuple[Interval, Interval]) -> tuple[float, Interval]:
    """Second median over the first, and its 95 % interval from theirs, with what opening a model again does."""
    ends = ((log(intervals[0][0]), log(intervals[0][1])), (log(intervals[1][0]), log(intervals[1][1])))
    ratio, (low, high) = difference_interval((log(medians[0]), log(medians[1])), ends)
    opening = log1p(OPENING)
    return exp(ratio), (exp(ratio - hypot(ratio - low, opening)), exp(ratio + hypot(high - ratio, opening)))


def verdict(
    ratio: float, interval: Interval, limit: float | None
) -> Literal["faster", "slower", "no difference shown", "too slow", "undecided"]:
    """A latency's verdict by RULE."""
    excludes = not interval[0] <= 1 <= interval[1]
    if limit is not None and ratio > limit:
        return "too slow" if excludes else "undecided"
    if not excludes:
        return NO_DIFFERENCE
    return "faster" if ratio < 1 else "slower"


def _accuracy_changes(old: Side, new: Side, limit: float | None) -> tuple[list[AccuracyChange], list[str]]:
    """Matched rows, and what has no partner."""
    before, after = ({(row.model, row.runner): row for row in side.bench.accuracy.rows} for side in (old, new))
    changes, alone = [], []
    for key in dict.fromkeys([*before, *after]):
        if key not in before or key not in after:
            alone.append(f"accuracy of {key[0]} by {key[1]}: only in the {'old' if key in before else 'new'} bench")
        else:
            answers = old.answers.get(key, {}), new.answers.get(key, {})
            changes.append(_accuracy_change(before[key], after[key], *answers, limit))
    return changes, alone


def _accuracy_change(
    old: AccuracyRow, new: AccuracyRow, first: Answers, second: Answers, limit: float | None
) -> AccuracyChange:
    """The drop of one model, paired by image where both answered the same ones."""
    drop = 100 * (old.accuracy - new.accuracy)
    gained = lost = p = None
    labels = [{path: one.label for path, one in answers.items()} for answers in (first, second)]
    paired = labels[0] == labels[1] and len(first) == old.n == new.n > 0  # the same images with the same labels
    if paired:
        right = [{path: one.label == one.predicted for path, one in answers.items()} for answers in (first, second)]
        gained = sum(right[1][path] and not right[0][path] for path in first)
        lost = sum(right[0][path] and not right[1][path] for path in first)
        p = mcnemar_p(gained, lost)
        low, high = paired_difference_interval(lost, gained, len(first))
        bound = -100 * paired_lower_bound(gained, lost, len(first)) if lost else 0.0
        chance = p > 0.05
    else:
        _, (low, high) = difference_interval((new.accuracy, old.accuracy), (new.interval, old.interval))
        ends = [wilson_interval(row.correct, row.n, Z_95_ONE_SIDED) for row in (new, old)]
        bound = 100 * difference_interval((new.accuracy, old.accuracy), (ends[0], ends[1]))[1][1]
        chance = low <= 0 <= high
    judged: Literal["ok", "too low", "not shown"] = "ok"
    if limit is not None and max(drop, bound) > limit + 1e-9:
        judged = "too low" if drop > limit + 1e-9 else "not shown"
    return AccuracyChange(
        model=old.model, runner=old.runner, old=old.accuracy, new=new.accuracy, n_old=old.n, n_new=new.n, drop=drop,
        interval=(100 * low, 100 * high), bound=bound, paired=paired, gained=gained, lost=lost, mcnemar_p=p,
        chance=chance, verdict=judged,
    )  # fmt: skip

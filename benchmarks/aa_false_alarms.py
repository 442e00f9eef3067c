"""How often a bench claims a difference where there is none, and how often its interval of the median holds.

    python benchmarks/aa_false_alarms.py EXPORT
    python benchmarks/aa_false_alarms.py EXPORT --runs 20 --duration 0.2 --simulations 100    # small
    python benchmarks/aa_false_alarms.py --simulations 500    # the simulations alone

EXPORT: an export directory. Each run opens its fp32 file twice, anew, and measures three cells as `dhox bench` does (40
rounds, interleaved in random order, scope e2e, batch 1): A, A again through the same opened model, and B, the same
file opened again. Nothing differs between them, so every "faster" or "slower" is false: between A and A by chance,
between A and B also because memory lies elsewhere. For contrast, the recorded rounds are read as "all A, then all B": A
the first half of one model's rounds, B the second, with intervals that take calls for independent; once as recorded,
once with a rise of 4 % over the run. Coverage is then simulated from sources whose median is known; without EXPORT that
alone. About 10 minutes on two idle cores, a minute of them for the simulations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np

from dhox.artefacts.bench_latency import Key
from dhox.bench.bench_models import open_models
from dhox.bench.cells import scope_calls
from dhox.bench.compare import difference_interval, ratio_interval
from dhox.bench.latency_statistics import (
    NO_DIFFERENCE,
    OPENING,
    drift_of,
    median_interval,
    order_statistic_ranks,
    p99_interval,
    paired_ratio,
)
from dhox.bench.rounds import FEWEST_ROUNDS, Cell, Timed, measure
from dhox.bench.runners.runner import open_runner
from dhox.evidence.statistics import percentile, wilson_interval
from dhox.models.export_directory import Export
from dhox.system.machine import device_card

DRIFT = 0.04
KINDS = (
    "independent calls", "round levels, 0.2 %", "round levels, 1 %", "AR(1) rounds, rho 0.5", "AR(1) rounds, rho 0.8",
    "AR(1) calls, rho 0.99", "clock steps", "drift 4 %", "bursts in 30 % of rounds", "bursts in 10 % of rounds",
)  # fmt: skip

Rounds = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--duration", type=float, default=0.5, help="seconds per model and run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runner", default="onnxruntime")
    parser.add_argument("--simulations", type=int, default=1000, help="per kind of noise")
    options = parser.parse_args()

    card = device_card()
    print(f"{card.host}: {card.cpu}, {card.cpu_cores} cores")
    if options.export is not None:
        start = time.perf_counter()
        measured = [
            measure_thrice(options.export, options.runner, options.device, options.duration, number)
            for number in range(options.runs)
        ]
        print(f"{options.runs} runs of {options.duration} s each, measured in {time.perf_counter() - start:.0f} s")
        report_measured(measured)
    for kind in KINDS:
        simulate(kind, options.simulations)


def measure_thrice(export: Path, runner: str, device: str, duration_s: float, seed: int) -> list[Timed]:
    """A, A and B, by the bench's own loop."""
    (model,) = open_models([export], precisions=("fp32",))
    assert model.manifest is not None
    golden = Export(export, model.manifest).golden()
    pixels = golden.input[:1]
    samples: dict[Key, Timed] = {}
    with (
        closing(open_runner(model, runner, device)) as first,
        closing(open_runner(model, runner, device)) as second,
    ):
        cells = [
            Cell(Key(name, runner, 1, "e2e"), scope_calls(model, one, pixels, [])["e2e"])
            for name, one in (("A", first), ("A again", first), ("B", second))
        ]
        measure(cells, duration_s, FEWEST_ROUNDS, np.random.default_rng(seed), samples, f"run {seed}")
    return list(samples.values())


def report_measured(measured: list[list[Timed]]) -> None:
    firsts = [a.rounds for a, _, _ in measured]
    for words, other, opening in (("A and A, opened once", 1, 0.0), ("A and B, opened twice", 2, OPENING)):
        pairs = [(run[0].rounds, run[other].rounds) for run in measured]
        found = [paired_ratio(a, b, opening=opening) for a, b in pairs]
        say_share(f"{words}: false verdicts", [row.verdict != NO_DIFFERENCE for row in found])
        off = [abs(row.ratio - 1) for row in found]
        print(
            f"  ratios are off by {100 * percentile(off, 50):.2f} % (median), {100 * percentile(off, 95):.2f} % (p95)"
        )
        rising = [paired_ratio(risen(a), risen(b), opening=opening).verdict for a, b in pairs]
        say_share("  the same with 4 % drift added", [verdict != NO_DIFFERENCE for verdict in rising])
    bare = [paired_ratio(run[0].rounds, run[2].rounds, opening=0.0).verdict for run in measured]
    say_share("  A and B, were nothing allowed for opening again", [verdict != NO_DIFFERENCE for verdict in bare])
    for words, runs in (("as recorded", firsts), ("with 4 % drift added", [risen(a) for a in firsts])):
        false = [claims(a[: len(a) // 2], a[len(a) // 2 :]) for a in runs]
        say_share(f"all A, then all B, calls taken for independent, {words}: false claims", false)
    drifts = [drift_of(np.array([np.median(one) for one in a.rounds]), np.array(a.started_s)) for a, _, _ in measured]
    say_share("runs flagged as drifting", [drift.flagged for drift in drifts])

    long_run = percentile(np.concatenate([np.concatenate(a) for a in firsts]), 50)
    intervals = [median_interval(a)[:2] for a in firsts]
    say_share(
        "intervals of the median that hold the long-run median", [low <= long_run <= high for low, high in intervals]
    )
    width = percentile([(high - low) / long_run for low, high in intervals], 50)
    print(f"  their median width is {100 * width:.2f} % of the long-run median, {long_run / 1e6:.4f} ms")
    again = [percentile(np.concatenate(run[1].rounds), 50) for run in measured]
    say_share(
        "intervals of the median that hold the median of A again, of the same minutes",
        [low <= other <= high for (low, high), other in zip(intervals, again, strict=True)],
    )
    ratios = [(ratio, *ends) for ratio, ends in (session_ratio(a, b) for a, b in pairwise(firsts))]
    say_share(
        "dhox compare, each run with the next: false differences", [not low <= 1 <= high for _, low, high in ratios]
    )
    say_share("  ... whose ratio exceeds 1.05: the gate fails", [ratio > 1.05 and low > 1 for ratio, low, _ in ratios])


def risen(rounds: Rounds) -> Rounds:
    """The rounds with a rise of DRIFT over the run."""
    return [one * factor for one, factor in zip(rounds, np.linspace(1, 1 + DRIFT, len(rounds)), strict=True)]


def claims(a: Rounds, b: Rounds) -> bool:
    """Whether an analysis that takes calls for independent sees two different medians."""
    medians: list[float] = []
    intervals: list[tuple[float, float]] = []
    for rounds in (a, b):
        calls = np.sort(np.concatenate(rounds))
        ranks = order_statistic_ranks(len(calls), 0.5)
        assert ranks is not None
        medians.append(float(np.log(percentile(calls, 50))))
        intervals.append((float(np.log(calls[ranks[0]])), float(np.log(calls[ranks[1]]))))
    _, (low, high) = difference_interval((medians[0], medians[1]), (intervals[0], intervals[1]))
    return not low <= 0 <= high


def session_ratio(a: Rounds, b: Rounds) -> tuple[float, tuple[float, float]]:
    """Ratio of medians b / a with the interval of dhox compare."""
    first, second = (percentile(np.concatenate(rounds), 50) for rounds in (a, b))
    return ratio_interval((first, second), (median_interval(a)[:2], median_interval(b)[:2]))


def simulate(kind: str, runs: int) -> None:
    """Coverage of the intervals of median and p99, and false verdicts of independent noise, for a source of noise."""
    rng = np.random.default_rng(0)
    many = np.concatenate([np.concatenate(noise(rng, kind)) for _ in range(300)])
    median, p99 = percentile(many, 50), percentile(many, 99)
    held, finite, missed, naive, false = [], [], [], [], []  # missed: of the intervals of p99 that were given
    for _ in range(runs):
        a, b = noise(rng, kind), noise(rng, kind)
        low, high, _ = median_interval(a)
        held.append(low <= median <= high)
        calls = np.sort(np.concatenate(a))
        ranks = order_statistic_ranks(len(calls), 0.5)
        assert ranks is not None
        naive.append(calls[ranks[0]] <= median <= calls[ranks[1]])
        interval, _ = p99_interval(a)
        finite.append(interval is not None)
        if interval is not None:
            missed.append(not interval[0] <= p99 <= interval[1])
        false.append(paired_ratio(a, b, opening=0.0).verdict != NO_DIFFERENCE)
    print(f"simulated, {kind}:")
    say_share("  interval of the median holds it", held)
    say_share("  ... if calls are taken for independent", naive)
    say_share("  p99 has an interval", finite)
    say_share("  ... and it misses (of those given)", missed)
    say_share("  paired verdicts of two independent such sources", false)


def noise(rng: np.random.Generator, kind: str, rounds: int = FEWEST_ROUNDS, calls: int = 100) -> Rounds:
    """Rounds of about 1 ms in ns, whose calls scatter by 1 % and depend on each other as `kind` says."""
    level = np.zeros((rounds, 1))
    if kind.startswith("round levels"):
        level = rng.normal(0, float(kind.split()[-2]) / 100, (rounds, 1))
    if kind.startswith("AR(1) rounds"):
        level = autoregression(rng, rounds, float(kind.split()[-1]), 0.01)[:, None]
    if kind == "AR(1) calls, rho 0.99":
        level = autoregression(rng, rounds * calls, 0.99, 0.02).reshape(rounds, calls)
    if kind == "clock steps":  # a slow state of 8 %, 30 % of the time, that lasts for some rounds
        states = rng.random(rounds) < 0.3
        for i in range(1, rounds):
            states[i] = states[i] if rng.random() < 0.7 else states[i - 1]
        level = 0.08 * states[:, None]
    if kind == "drift 4 %":
        level = np.linspace(-DRIFT / 2, DRIFT / 2, rounds)[:, None]
    if kind.startswith("bursts"):  # there 10 or 20 % of the calls take 65 % longer, elsewhere none
        share, slow = {"30": (0.3, 0.1), "10": (0.1, 0.2)}[kind.split()[2]]
        level = 0.5 * ((rng.random((rounds, 1)) < share) & (rng.random((rounds, calls)) < slow))
    return list(1e6 * np.exp(level + rng.normal(0, 0.01, (rounds, calls))))


def autoregression(rng: np.random.Generator, n: int, rho: float, sd: float) -> np.ndarray:
    steps = rng.normal(0, sd * np.sqrt(1 - rho**2), n)
    values = np.empty(n)
    values[0] = rng.normal(0, sd)
    for i in range(1, n):
        values[i] = rho * values[i - 1] + steps[i]
    return values


def say_share(words: str, hits: Sequence[bool]) -> None:
    if not hits:
        print(f"{words}: there is none", flush=True)
        return
    low, high = wilson_interval(sum(hits), len(hits))
    print(f"{words}: {100 * np.mean(hits):.1f} % ({100 * low:.1f}-{100 * high:.1f}) of {len(hits)}", flush=True)


if __name__ == "__main__":
    main()

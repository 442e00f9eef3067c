"""From latency samples to numbers: percentiles, intervals that hold under dependence, drift, and paired ratios.

Latencies of one run are not independent: clocks step, chips warm up, neighbours wake. So every interval here treats
the round, not the call, as the unit of chance, and widens where rounds resemble their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, hypot, inf, lgamma, log, log1p, sqrt

import numpy as np

from dhox.artefacts.bench_latency import ComparisonRow, Drift, Effective, Key, LatencyMs, LatencyStatistics, Verdict
from dhox.evidence.statistics import Z_95_TWO_SIDED, nearest_rank, percentile, student_t

SEED = 0  # of the bootstrap: equal samples give equal numbers
RESAMPLES = 1000
GRID = 1000  # candidate medians between the lowest and the highest round median
LARGEST_CORRELATION = 0.9  # of neighbouring rounds, as far as 40 rounds can tell
FEWEST_EFFECTIVE = 3.0  # rounds: what a strong correlation leaves
FEWEST_ROUNDS = 6  # below, no interval: two-sided 95 % needs 6 signs
LEVELS_IN_TAIL = 0.1  # of the way from p50 to p99, how far rounds may differ for p99 to have an interval
UNSTABLE_CV = 0.025  # trtexec's own gate
NO_DIFFERENCE: Verdict = "no difference shown"
# What opening the same file again moves its median by, 95 % of the time (benchmarks/aa_false_alarms.py).
OPENING = 0.01
DRIFT_P, DRIFT_CHANGE = 0.01, 0.01
METHOD = (
    "Percentiles are nearest-rank over all calls of all rounds; nothing is dropped as an outlier.",
    "p50_interval: 95 %, whole rounds resampled (block bootstrap, 1,000 resamples, fixed seed), widened by Student's t "
    "and by the correlation of neighbouring round medians, one standard error above its estimate (effective number of "
    "rounds).",
    "p99_interval: 95 %, order statistics with exact binomial ranks at the effective number of calls (design effect of "
    "rounds); null where that is under 368, since no sample then bounds p99 from above, and where the levels of rounds "
    "differ by more than a tenth of the way from p50 to p99 (standard deviation), since few rounds then make the tail.",
    "Flags: unstable = the coefficient of variation of round medians exceeds 2.5 %; drift = Spearman's correlation of "
    "round medians with time has p < 0.01 and the last quarter differs from the first by 1 % or more.",
    "Comparisons: ratio of the medians of the same round, Hodges and Lehmann's estimate with Wilcoxon's signed-rank "
    "interval, widened where rounds resemble their neighbours, and by the 1 % that opening the same file again can "
    "move its median; all intervals of one bench hold together with 95 % (Bonferroni).",
)


def latency_statistics(rounds_ns: Sequence[np.ndarray], batch: int, started_s: np.ndarray) -> LatencyStatistics:
    """The numbers of one latency row of bench.json.

    `rounds_ns`: one int64 array of nanoseconds per call for each round, none empty; `batch`: images per call;
    `started_s`: float [rounds], when each round began.
    """
    rounds = [np.asarray(one, np.int64) for one in rounds_ns]
    medians = _round_medians(rounds)
    low, high, effective_rounds = median_interval(rounds)
    p99, effective_calls = p99_interval(rounds)
    round_cv = float(medians.std() / medians.mean())
    drift = drift_of(medians, started_s)
    calls = _ordered_calls(rounds)
    n, total_ns = len(calls), int(calls.sum())
    variance = sum(float(((one - total_ns / n) ** 2).sum()) for one in rounds) / n
    return LatencyStatistics(
        n=n,
        rounds=len(rounds),
        latency_ms=latency_ms(calls, total_ns),
        p50_interval=(low / 1e6, high / 1e6),
        p99_interval=None if p99 is None else (p99[0] / 1e6, p99[1] / 1e6),
        images_per_s=batch * n / (total_ns / 1e9),
        cv=sqrt(variance) / (total_ns / n),
        round_cv=round_cv,
        effective=Effective(effective_rounds, effective_calls),
        drift=drift,
        flags=["unstable"] * (round_cv > UNSTABLE_CV) + ["drift"] * drift.flagged,
    )


def latency_ms(calls: np.ndarray, total_ns: int) -> LatencyMs:
    """Percentiles of ordered calls int64 [n] in nanoseconds, whose sum is `total_ns`; the calls are overwritten."""
    p50, p90, p95, p99 = (nearest_rank(calls, percent) / 1e6 for percent in (50, 90, 95, 99))
    highest, lowest, mean = float(calls[-1]) / 1e6, float(calls[0]) / 1e6, total_ns / len(calls) / 1e6
    calls -= int(nearest_rank(calls, 50))
    mad = float(np.median(np.abs(calls, out=calls), overwrite_input=True)) / 1e6
    return LatencyMs(p50=p50, p90=p90, p95=p95, p99=p99, max=highest, min=lowest, mean=mean, mad=mad)


def _ordered_calls(rounds: Sequence[np.ndarray]) -> np.ndarray:
    """All calls in ascending order, in one new array."""
    calls = np.concatenate(list(rounds))
    calls.sort()
    return calls


def _round_medians(rounds: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [rounds]."""
    return np.array([np.median(one) for one in rounds])


def effective_rounds(values: np.ndarray) -> float:
    """How many independent rounds the mean of `values` [rounds] is worth, between 3 and their number.

    A first-order autoregression: R (1 - rho) / (1 + rho), with Kendall's correction of the small-sample bias of rho. A
    negative rho counts as none; a positive one is raised by its standard error, since 40 rounds tell it badly, and too
    small a rho costs more coverage than too large a one costs width.
    """
    n = len(values)
    centred = values - values.mean()
    power = float((centred**2).sum())
    rho = float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0
    corrected = rho + (1 + 4 * rho) / n if power > 0 else 0.0
    careful = min(corrected + sqrt((1 - rho**2) / n), LARGEST_CORRELATION) if corrected > 0 else 0.0
    return min(max(n * (1 - careful) / (1 + careful), FEWEST_EFFECTIVE), float(n))


def median_interval(rounds: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The 95 % interval of the median of all calls, in the samples' unit, and the effective number of rounds.

    Whole rounds are resampled. The interval's distances from the median are widened by sqrt(R / R_effective), by
    sqrt(R / (R - 1)) and by Student's t over the normal quantile: simulated coverage is 96 to 99 % for independent
    calls, random round levels, clock steps and AR(1) noise of rho up to 0.8, 100 % under a steady drift
    (benchmarks/aa_false_alarms.py). From a single round the interval is that of its order statistics, which trusts
    its calls to be independent.
    """
    calls = _ordered_calls(rounds)
    centre = nearest_rank(calls, 50)
    n = len(rounds)
    if n == 1:
        ranks = order_statistic_ranks(len(calls), 0.5)
        low, high = (calls[0], calls[-1]) if ranks is None else (calls[ranks[0]], calls[ranks[1]])
        return float(low), float(high), 1.0
    medians = _round_medians(rounds)
    # A resampled median lies between the lowest and the highest round median.
    first, last = np.count_nonzero(calls < medians.min()), np.count_nonzero(calls <= medians.max())
    # An even round's median lies between two calls, so one more call on either side.
    candidates = calls[max(first - 1, 0) : last + 1]
    if len(candidates) > GRID:
        candidates = candidates[np.linspace(0, len(candidates) - 1, GRID).astype(int)]
    below = np.stack([np.searchsorted(np.sort(one), candidates, "right") for one in rounds]).astype(float)
    sizes = np.array([len(one) for one in rounds], float)
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    reached = drawn @ below >= (drawn @ sizes / 2)[:, None]
    reached[:, -1] = True
    resampled = np.sort(candidates[reached.argmax(1)])
    effective = effective_rounds(medians)
    wider = student_t(0.05, max(int(effective) - 1, 1)) / Z_95_TWO_SIDED * sqrt(n / effective) * sqrt(n / (n - 1))
    down = max(centre - percentile(resampled, 2.5), 0.0)
    up = max(percentile(resampled, 97.5) - centre, 0.0)
    # No call was faster than the fastest; there is no such bound above.
    return max(centre - wider * down, float(calls[0])), centre + wider * up, effective


def order_statistic_ranks(n: int, quantile: float) -> tuple[int, int] | None:
    """Zero-based ranks (low, high) of `n` ordered independent samples that hold a quantile in (0, 1) with 95 % or more.

    Exact and distribution-free: each side errs with at most 2.5 % by the binomial distribution (David and Nagaraja
    2003, section 7.1). None where even the extremes do not: under 368 samples at 0.99, under 6 at 0.5.
    """
    reach = 10 + 12 * sqrt(n * quantile * (1 - quantile))  # beyond it lies less than 1e-30
    first, last = max(int(n * quantile - reach), 0), min(ceil(n * quantile + reach), n)
    k = np.arange(first, last)
    at_first = lgamma(n + 1) - lgamma(first + 1) - lgamma(n - first + 1)
    at_first += first * log(quantile) + (n - first) * log1p(-quantile)
    steps = np.concatenate(([at_first], np.log(n - k) - np.log(k + 1) + log(quantile) - log1p(-quantile)))
    cdf = np.cumsum(np.exp(np.cumsum(steps)))  # of Binomial(n, quantile) from `first` on: calls below the quantile
    # x[i] lies above the quantile where at most i calls lie below; x[j] lies below it where at least j + 1 do.
    low = first + int(np.searchsorted(cdf, 0.025, "right")) - 1
    high = first + int(np.searchsorted(cdf, 0.975))
    return (low, high) if low >= 0 and high <= n - 1 else None


def p99_interval(rounds: Sequence[np.ndarray]) -> tuple[tuple[float, float] | None, int]:
    """The 95 % interval of p99 in the samples' unit, or None, and the effective number of calls.

    Slow calls come in clusters. The design effect is how much more the number of calls above p99 varies between
    rounds than a binomial would (Kish 1965; for quantiles Woodruff 1952), times the widening for rounds that resemble
    their neighbours; the order statistics are those of n / effect calls, at the same relative ranks.

    None under 6 rounds, under 368 effective calls, and where round levels differ by more than LEVELS_IN_TAIL: the
    slowest few rounds then make the tail, and the design effect is estimated too small just where they were not slow.
    Slow calls that come in a tenth of the rounds or fewer escape both (docs/statistics.md).
    """
    calls = _ordered_calls(rounds)
    n, sizes = len(calls), np.array([len(one) for one in rounds], float)
    p50, p99 = (nearest_rank(calls, percent) for percent in (50, 99))
    above = np.array([(one > p99).sum() for one in rounds], float)
    share = above.sum() / n
    effect = 1.0
    if len(rounds) >= FEWEST_ROUNDS and share > 0:
        residuals = above - share * sizes
        between = float((residuals**2).sum()) / (len(rounds) - 1) * len(rounds) / n
        correlated = len(rounds) / min(effective_rounds(residuals), effective_rounds(_round_medians(rounds)))
        effect = max(1.0, between / (share * (1 - share))) * correlated
    effective = max(int(n / effect), 1)
    ranks = order_statistic_ranks(effective, 0.99)
    levels_matter = _level_spread(rounds) > LEVELS_IN_TAIL * (p99 - p50)
    if ranks is None or len(rounds) < FEWEST_ROUNDS or levels_matter:
        return None, effective
    low, high = (effective - rank for rank in ranks)  # how many calls lie at or above
    return (float(calls[n - ceil(low * n / effective)]), float(calls[n - max(int(high * n / effective), 1)])), effective


def _level_spread(rounds: Sequence[np.ndarray]) -> float:
    """The standard deviation of the levels of rounds in the samples' unit, without the noise of their medians: from
    the covariance of the medians of a round's even and odd calls. Infinite where a round has one call."""
    if min(len(one) for one in rounds) < 2 or len(rounds) < 2:
        return inf
    even, odd = (np.array([np.median(one[start::2]) for one in rounds]) for start in (0, 1))
    return sqrt(max(float(np.cov(even, odd)[0, 1]), 0.0))


def drift_of(medians: np.ndarray, started_s: np.ndarray) -> Drift:
    """Whether round medians rise or fall over the run: Spearman's `rho`, and `change` from the first to the last
    quarter of the rounds, relative.

    `flagged` where both matter: p < 0.01 of rho (Student's t approximation), which short-lived correlation alone can
    reach, and a change of 1 % or more.
    """
    n = len(medians)
    if n < FEWEST_ROUNDS:
        return Drift(0.0, 0.0, False)
    times, levels = mean_ranks(np.asarray(started_s)), mean_ranks(medians)
    spread = float(times.std() * levels.std())
    rho = float(((times - times.mean()) * (levels - levels.mean())).mean()) / spread if spread > 0 else 0.0
    in_time = medians[np.argsort(started_s, kind="stable")]
    quarter = max(n // 4, 1)
    change = float(np.median(in_time[-quarter:]) / np.median(in_time[:quarter]) - 1)
    t = abs(rho) * sqrt((n - 2) / max(1 - rho**2, 1e-12))
    return Drift(rho, change, t > student_t(DRIFT_P, n - 2) and abs(change) >= DRIFT_CHANGE)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: np.ndarray = (ends - (counts + 1) / 2)[inverse]
    return mean


@dataclass(frozen=True)
class Ratio:
    """Time of b over time of a, with its interval; None where the rounds are too few to exclude anything."""

    ratio: float
    interval: tuple[float, float] | None
    verdict: Verdict


def paired_ratio(
    a_rounds: Sequence[np.ndarray], b_rounds: Sequence[np.ndarray], of_comparisons: int = 1, opening: float = OPENING
) -> Ratio:
    """How the time of b compares with that of a, measured in the same rounds: `ratio` = time of b / time of a.

    `a_rounds`, `b_rounds`: one array per round, in the same order of rounds. The estimate is Hodges and Lehmann's on
    the log ratios of round medians, the interval Wilcoxon's signed-rank interval: were a and b the same, the sign of
    each ratio would be a coin's, so a verdict would be false in 5 % of benches, whatever the distribution; it is
    widened where the ratios of neighbouring rounds resemble each other. `of_comparisons`: of how many this is one;
    each interval then has 1 - 0.05 / of_comparisons (Bonferroni), so that all hold together with 95 %. `opening`: what
    opening a model again moves its median by, as a 95 % half-width, added in quadrature; 0 where both were one.

    The verdict is "faster" (b) or "slower" only where the interval excludes 1, else "no difference shown"; the
    interval is None where the rounds are too few to exclude anything (fewer than 6 for one comparison).
    """
    if len(a_rounds) != len(b_rounds):
        raise ValueError("paired samples have the same rounds")
    logs = np.log(_round_medians(b_rounds)) - np.log(_round_medians(a_rounds))
    i, j = np.triu_indices(len(logs))
    walsh = np.sort((logs[i] + logs[j]) / 2)
    centre = float(np.median(walsh))
    cut = signed_rank_cut(len(logs), 0.05 / of_comparisons)
    if cut is None:
        return Ratio(exp(centre), None, NO_DIFFERENCE)
    wider = sqrt(len(logs) / effective_rounds(logs))
    low = exp(centre - hypot(wider * (centre - walsh[cut]), log1p(opening)))
    high = exp(centre + hypot(wider * (walsh[-1 - cut] - centre), log1p(opening)))
    return Ratio(exp(centre), (low, high), "faster" if high < 1 else "slower" if low > 1 else NO_DIFFERENCE)


def signed_rank_cut(n: int, alpha: float) -> int | None:
    """How many Walsh averages of `n` differences to leave out at either end for a two-sided interval of 1 - alpha.

    From the exact null distribution of Wilcoxon's signed-rank sum; None where `n` is too small for any interval.
    """
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        shifted = np.zeros_like(counts)
        shifted[rank:] = counts[:-rank]
        counts = (counts + shifted) / 2
    cut = int(np.searchsorted(np.cumsum(counts), alpha / 2, "right"))
    return cut - 1 if cut >= 1 else None


def comparisons(
    rounds: Mapping[Key, Sequence[np.ndarray]], groups: Mapping[str, str] | None = None
) -> list[ComparisonRow]:
    """Every model and runner against the first one of the same batch and scope, and of the same of `groups`, by model.

    `rounds`: nanoseconds, measured interleaved. Where an interruption left one round more of some, the common ones
    count; pairs with too few rounds to exclude anything are left out.
    """
    first: dict[tuple[int, str, str | None], Key] = {}
    group = groups or {}
    pairs = [(first.setdefault((key.batch, key.scope, group.get(key.model)), key), key) for key in rounds]
    pairs = [(reference, key) for reference, key in pairs if reference != key]
    rows = []
    for reference, key in pairs:
        common = min(len(rounds[reference]), len(rounds[key]))
        found = paired_ratio(rounds[reference][:common], rounds[key][:common], len(pairs))
        if found.interval is not None:
            rows.append(
                ComparisonRow(
                    batch=key.batch, scope=key.scope, reference_model=reference.model,
                    reference_runner=reference.runner, model=key.model, runner=key.runner, ratio=found.ratio,
                    interval=found.interval, verdict=found.verdict,
                )
            )  # fmt: skip
    return rows

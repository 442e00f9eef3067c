"""Charts of a bench: distributions, drift, batch sizes, power, calibration, accuracy against latency."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dhox.artefacts.bench import Bench
from dhox.artefacts.predictions import Answers
from dhox.artefacts.samples import Samples
from dhox.bench.sweep.choose import pareto_front
from dhox.reports.charts import COLOURS, SMALL, plain_ticks, svg
from dhox.reports.pages.bench_findings import OfModel, who
from dhox.reports.sections import Chart

MOST_LINES = 8  # in one chart; the fastest are drawn
LONGEST_LABEL = 48
POINTS = 250  # of a distribution, whatever the number of calls
LINES = ("-", "--", ":", "-.")  # beyond as many models as there are colours
BINS = 15  # of the calibration, as the calibration error has


def _told_scope(bench: Bench) -> str | None:
    """The scope that charts show: end to end where it was measured, else the first."""
    scopes = {row.scope for row in bench.measured_latency}
    return next((name for name in ("e2e", "device", "pipeline", "camera") if name in scopes), None)


def _told_rows(bench: Bench) -> list[Any]:
    """The latency rows that charts show: that scope, the smallest batch."""
    rows = [row for row in bench.measured_latency if row.scope == _told_scope(bench)]
    smallest = min((row.batch for row in rows), default=None)
    return [row for row in rows if row.batch == smallest]


def fastest(rows: Iterable[Any]) -> list[Any]:
    """At most MOST_LINES latency rows, in their order."""
    rows = list(rows)
    kept = sorted(rows, key=lambda row: row.latency_ms.p50)[:MOST_LINES]
    return [row for row in rows if row in kept]


def look(bench: Bench, row: OfModel) -> dict[str, Any]:
    """Colour and line of a model and runner, the same in every chart."""
    pairs = list(dict.fromkeys((one.model, one.runner) for one in bench.latency))
    number = pairs.index((row.model, row.runner)) if (row.model, row.runner) in pairs else len(pairs)
    return {"color": f"C{number % len(COLOURS)}", "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def label(bench: Bench, row: OfModel) -> str:
    """A model and runner in a legend: the middle of a long name is left out, dollar signs are no mathematics, and a
    leading underscore hides no entry."""
    name = who(bench, row)
    shown = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 24]}…{name[-23:]}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def latency_charts(bench: Bench, samples: Samples | None) -> tuple[Chart, ...]:
    """The distribution of calls, their drift over time, and batch sizes; those that there are samples for."""
    charts = []
    if samples and _told_rows(bench):
        charts.append(
            Chart("Latency distribution", partial(distribution, bench, samples), _distribution_caption(bench))
        )
        caption = "A slope is drift: the device warms up or changes its clocks. Every round visits all models, so "
        charts.append(Chart("Latency over time", partial(drift, bench, samples), f"{caption}drift hits them alike."))
    if len({row.batch for row in bench.measured_latency if row.scope == _told_scope(bench)}) > 1:
        caption = f"Timing scope {_told_scope(bench)}. Medians of all calls; images/s of the same calls."
        charts.append(Chart("Batch size", partial(_batch_sizes, bench), caption))
    return tuple(charts)


def _distribution_caption(bench: Bench) -> str:
    rows, left_out = _told_rows(bench), list(dict.fromkeys(model for model, _ in bench.emulated))
    return (
        f"Timing scope {rows[0].scope}, batch {rows[0].batch}: share of calls that took at most so long, from every "
        "raw sample; the slowest 0.1 % lie outside."
        + (f" The fastest {MOST_LINES} of {len(rows)}." if len(rows) > MOST_LINES else "")
        + (f" Left out, since it is emulated here: {', '.join(left_out)}." if left_out else "")
    )


def distribution(bench: Bench, samples: Samples) -> str:
    """Share of calls that took at most so long; the slowest 0.1 % are cut off."""
    rows = fastest(_told_rows(bench))
    shares = np.append(np.linspace(0, 99, POINTS), np.linspace(99, 99.9, 20)[1:])

    def draw(axes: Any) -> None:
        for row in rows:
            calls = np.concatenate(list(samples.calls[row.key].rounds))
            times = np.percentile(calls / 1e6, shares, method="inverted_cdf")
            axes[0].plot(times, shares, **look(bench, row), label=label(bench, row))
        axes[0].set(xlabel="latency per call, ms", ylabel="calls, %", xscale="log")
        plain_ticks(axes[0].xaxis)

    return svg(draw, labels=[label(bench, row) for row in rows])


def drift(bench: Bench, samples: Samples) -> str:
    """The median of every round, in % of the row's own median, over the seconds since the first round."""
    rows = fastest(_told_rows(bench))
    start = min(samples.calls[row.key].started_s.min() for row in rows)

    def draw(axes: Any) -> None:
        for row in rows:
            calls = samples.calls[row.key]
            medians = np.array([np.median(times) for times in calls.rounds])
            change = 100 * (medians / np.median(medians) - 1)
            axes[0].plot(calls.started_s - start, change, **look(bench, row), linewidth=1, label=label(bench, row))
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(min(low, -2), max(high, 2))
        axes[0].axhline(0, color="gray", linewidth=0.8)
        axes[0].set(xlabel="seconds since the first round", ylabel="round median, % off its median")

    return svg(draw, labels=[label(bench, row) for row in rows])


def _batch_sizes(bench: Bench) -> str:
    rows = sorted((row for row in bench.measured_latency if row.scope == _told_scope(bench)), key=lambda row: row.batch)
    curves: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        curves.setdefault((row.model, row.runner), []).append(row)
    drawn = [curves[row.model, row.runner] for row in fastest(curve[0] for curve in curves.values())]
    batches = sorted({row.batch for row in rows})

    def draw(axes: Any) -> None:
        for curve in drawn:
            sizes, style = [row.batch for row in curve], {"marker": "o", "markersize": 4, **look(bench, curve[0])}
            axes[0].plot(sizes, [row.latency_ms.p50 for row in curve], **style, label=label(bench, curve[0]))
            axes[1].plot(sizes, [row.images_per_s for row in curve], **style)
        axes[0].set(ylabel="p50 per call, ms", yscale="log")
        plain_ticks(axes[0].yaxis)
        axes[1].set(ylabel="images/s", xlabel="batch size", xscale="log", ylim=(0, None))
        axes[1].set_xticks(batches, [str(batch) for batch in batches])
        axes[1].set_xticks([], minor=True)
        axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return svg(draw, panels=2, labels=[label(bench, curve[0]) for curve in drawn])


def power_charts(bench: Bench, samples: Samples | None) -> tuple[Chart, ...]:
    """Watts over the window of the energy rows of the smallest batch, and the idle level."""
    smallest = min((row.batch for row in bench.energy.rows), default=None)
    rows = [row for row in bench.energy.rows if row.batch == smallest][:MOST_LINES]
    if samples is None or not rows:
        return ()
    idle = bench.energy.idle

    def draw(axes: Any) -> None:
        for row in rows:
            trace = samples.traces[row.trace]
            parts = np.arange(0, len(trace.watts), max(1, len(trace.watts) // POINTS))
            means = np.add.reduceat(trace.watts, parts) / np.diff(np.append(parts, len(trace.watts)))
            seconds = trace.seconds[parts] - trace.seconds[0]
            axes[0].plot(seconds, means, **look(bench, row), linewidth=1, label=label(bench, row))
        if idle is not None:
            axes[0].axhline(idle.mean_w, color="gray", linestyle="--", linewidth=1, label="idle")
        axes[0].set(xlabel="seconds of each window", ylabel="W", ylim=(0, None))

    caption = "Each model in an uninterrupted window of its own, the smallest batch; dashed grey: nothing running."
    return (Chart("Power", lambda: svg(draw, labels=["idle", *(label(bench, row) for row in rows)]), caption),)


class Bin(NamedTuple):
    """Images whose top probability is alike: how many, its mean, and the share of right answers."""

    n: int
    confidence: float
    accuracy: float


def calibration_bins(answers: Answers) -> list[Bin]:
    """The answers of one model in BINS bins of equal width, the empty ones left out."""
    probability = np.array([answer.probability for answer in answers.values()])
    right = np.array([answer.label == answer.predicted for answer in answers.values()])
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [place == number for number in range(BINS) if (place == number).any()]
    return [Bin(int(part.sum()), float(probability[part].mean()), float(right[part].mean())) for part in parts]


def calibration_charts(bench: Bench, predictions: dict[tuple[str, str], Answers]) -> tuple[Chart, ...]:
    """Reliability: accuracy over mean top probability."""
    rows = [row for row in bench.accuracy.rows if predictions.get((row.model, row.runner))][:MOST_LINES]
    if not rows:
        return ()

    def draw(axes: Any) -> None:
        axes[0].plot([0, 100], [0, 100], color="gray", linewidth=0.8, linestyle="--", label="perfectly calibrated")
        for row in rows:
            bins = calibration_bins(predictions[row.model, row.runner])
            style = {"marker": "o", "markersize": 3, "linewidth": 1, **look(bench, row), "label": label(bench, row)}
            axes[0].plot([100 * one.confidence for one in bins], [100 * one.accuracy for one in bins], **style)
        axes[0].set(xlabel="top probability, % (mean of a bin)", ylabel="right, %", xlim=(0, 102), ylim=(0, 102))

    labels = ["perfectly calibrated", *(label(bench, row) for row in rows)]
    caption = (
        f"Share of right answers over the probability that the model gave them, in {BINS} bins, on the test images. "
        "Below the dashed line it is too sure of itself."
    )
    return (Chart("Calibration", partial(svg, draw, labels=labels), caption),)


class Point(NamedTuple):
    """A model in the plane of latency (ms) and accuracy (%), with 95 % intervals of the latter."""

    model: str
    runner: str
    ms: float
    accuracy: float
    interval: tuple[float, float]


def front(points: list[Point]) -> list[Point]:
    """Those that no other point beats: as fast and more accurate, or faster and as accurate. Fastest first."""
    kept = pareto_front([(point.ms, point.accuracy) for point in points])
    return sorted((points[place] for place in kept), key=lambda point: point.ms)


def pareto_charts(bench: Bench) -> tuple[Chart, ...]:
    """Accuracy against latency, with intervals and the Pareto front; none for fewer than two points."""
    accuracy = {(row.model, row.runner): row for row in bench.accuracy.rows}
    points = [
        Point(*pair, row.latency_ms.p50, 100 * right.accuracy, (100 * right.interval[0], 100 * right.interval[1]))
        for row in _told_rows(bench)
        if (right := accuracy.get(pair := (row.model, row.runner)))
    ]
    if len(points) < 2:
        return ()
    best = front(points)

    def draw(axes: Any) -> None:
        axes[0].step([one.ms for one in best], [one.accuracy for one in best], where="post", color="gray", lw=0.8)
        for one in points:
            low, high = one.interval
            error = [[max(0.0, one.accuracy - low)], [max(0.0, high - one.accuracy)]]
            style = {"fmt": "o", "color": look(bench, one)["color"], "capsize": 2, "markersize": 5}
            style |= {} if one in best else {"markerfacecolor": "none"}
            axes[0].errorbar(one.ms, one.accuracy, yerr=error, **style)
        for one in points if len(points) <= 12 else best:
            place = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": SMALL}
            axes[0].annotate(label(bench, one), (one.ms, one.accuracy), **place)
        axes[0].set(xlabel="p50 per call, ms", ylabel="top-1 accuracy, %", xscale="log")
        axes[0].margins(x=0.2)
        plain_ticks(axes[0].xaxis)

    caption = (
        f"Top-1 on the {bench.accuracy.split} split against the median of one call, scope {_told_scope(bench)}, "
        "smallest batch; 95 % intervals. Filled, on the line: nothing is faster and better."
    )
    return (Chart("Accuracy against latency", partial(svg, draw), caption),)

"""Charts of a bench's page, as inline SVG."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.reports.bench.text import pair_name
from dhox.reports.run.charts import COLOURS, svg

MOST_LINES = 8  # in one chart; the fastest are drawn
LONGEST_LABEL = 60
POINTS = 250  # of a distribution, whatever the number of calls
LINES = ("-", "--", ":", "-.")  # beyond as many models as there are colours


def measured(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The latency rows whose times mean something on this device."""
    return [row for row in content["latency"] if not row["emulated"]]


def told_boundary(content: dict[str, Any]) -> str | None:
    """The scope that single charts show: end to end where it was measured, else the first."""
    scopes = {row["scope"] for row in measured(content)}
    return next((name for name in ("e2e", "device", "pipeline") if name in scopes), None)


def told_rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that single charts show: that scope, the smallest batch; the fastest MOST_LINES."""
    rows = [row for row in measured(content) if row["scope"] == told_boundary(content)]
    smallest = min((row["batch"] for row in rows), default=None)
    rows = [row for row in rows if row["batch"] == smallest]
    kept = sorted(rows, key=lambda row: row["latency_ms"]["p50"])[:MOST_LINES]
    return [row for row in rows if row in kept]


def look(content: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Colour and line of a subject and runner, the same in every chart."""
    pairs = list(dict.fromkeys((one["subject"], one["runner"]) for one in content["latency"]))
    number = pairs.index((row["subject"], row["runner"])) if (row["subject"], row["runner"]) in pairs else len(pairs)
    return {"color": f"C{number % len(COLOURS)}", "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def columns(labels: list[str]) -> int:
    """Columns of a legend."""
    longest = max(map(len, labels), default=0)
    return 3 if longest < 18 else 2 if longest < 30 else 1


def legend_height(labels: list[str]) -> float:
    """Inches that a legend above the axes takes."""
    return 0.17 * -(-len(labels) // columns(labels))


def legend(axis: Any) -> None:
    """The legend, above the axes so that it hides no line."""
    labels = axis.get_legend_handles_labels()[1]
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns(labels), frameon=False, fontsize=8)


def label(content: dict[str, Any], row: dict[str, Any]) -> str:
    """A subject and runner in a legend: the middle of a long name is left out, dollar signs are no mathematics, and a
    leading underscore hides no entry."""
    name = pair_name(content, row["subject"], row["runner"])
    shown = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 26]}…{name[-25:]}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def distribution_chart(content: dict[str, Any], samples: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> Any:
    """Share of calls that took at most so long, of rows whose raw samples are given; the slowest 0.1 % are cut off."""
    share = np.append(np.linspace(0, 99, POINTS), np.linspace(99, 99.9, 20)[1:])

    def draw(axes: Any) -> None:
        for row in rows:
            times = np.percentile(samples[row["samples"]] / 1e6, share, method="inverted_cdf")
            axes[0].plot(times, share, **look(content, row), label=label(content, row))
        axes[0].set(xlabel="latency per call, ms", ylabel="calls, %", xscale="log")
        plain_ticks(axes[0].xaxis)
        legend(axes[0])

    return svg(draw, panels=1, taller=legend_height([label(content, row) for row in rows]))


def drift_chart(content: dict[str, Any], samples: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> Any:
    """The median of every round, in % of the row's own median, over the seconds since the first round."""
    start = min(samples[f"{row['samples']}_started_s"].min() for row in rows)

    def draw(axes: Any) -> None:
        for row in rows:
            name = row["samples"]
            ends = np.cumsum(samples[f"{name}_rounds"])[:-1]
            medians = np.array([np.median(part) for part in np.split(samples[name], ends)])
            seconds = samples[f"{name}_started_s"] - start
            change = 100 * (medians / np.median(medians) - 1)
            axes[0].plot(seconds, change, **look(content, row), linewidth=1, label=label(content, row))
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(min(low, -2), max(high, 2))
        axes[0].axhline(0, color="gray", linewidth=0.8)
        axes[0].set(xlabel="seconds since the first round", ylabel="round median, % off its median")
        legend(axes[0])

    return svg(draw, panels=1, taller=legend_height([label(content, row) for row in rows]))


def batch_chart(content: dict[str, Any]) -> Any | None:
    """Median latency and images/s over the batch size; None with one batch size."""
    rows = [row for row in measured(content) if row["scope"] == told_boundary(content)]
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["batch"]):
        curves.setdefault((row["subject"], row["runner"]), []).append(row)
    fastest = sorted(curves.items(), key=lambda curve: curve[1][0]["latency_ms"]["p50"])[:MOST_LINES]
    batches = sorted({row["batch"] for row in rows})
    if len(batches) < 2:
        return None

    def draw(axes: Any) -> None:
        for _, curve in fastest:
            sizes = [row["batch"] for row in curve]
            style = {"marker": "o", "markersize": 4, **look(content, curve[0])}
            p50 = [row["latency_ms"]["p50"] for row in curve]
            axes[0].plot(sizes, p50, **style, label=label(content, curve[0]))
            axes[1].plot(sizes, [row["images_per_s"] for row in curve], **style)
        axes[0].set(ylabel="p50 per call, ms", yscale="log")
        plain_ticks(axes[0].yaxis)
        axes[1].set(ylabel="images/s", xlabel="batch size", xscale="log", ylim=(0, None))
        axes[1].set_xticks(batches, [str(batch) for batch in batches])
        axes[1].set_xticks([], minor=True)
        axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        legend(axes[0])

    return svg(draw, panels=2, taller=legend_height([label(content, curve[0]) for _, curve in fastest]))


def power_chart(content: dict[str, Any], samples: dict[str, np.ndarray]) -> Any | None:
    """Watts over the window of the energy rows of the smallest batch, and the idle level; None without a trace."""
    traced = [row for row in content["energy"]["rows"] if f"{row['trace']}_watts" in samples]
    rows = [row for row in traced if row["batch"] == min(one["batch"] for one in traced)][:MOST_LINES]
    if not rows:
        return None
    idle = (content["energy"]["idle"] or {}).get("mean_w")

    def draw(axes: Any) -> None:
        for row in rows:
            seconds, watts = samples[f"{row['trace']}_seconds"], samples[f"{row['trace']}_watts"]
            step = max(1, len(watts) // POINTS)
            parts = np.arange(0, len(watts), step)
            means = np.add.reduceat(watts, parts) / np.diff(np.append(parts, len(watts)))
            axes[0].plot(
                seconds[parts] - seconds[0], means, **look(content, row), linewidth=1, label=label(content, row)
            )
        if idle is not None:
            axes[0].axhline(idle, color="gray", linestyle="--", linewidth=1, label="idle")
        axes[0].set(xlabel="seconds of each window", ylabel="W", ylim=(0, None))
        legend(axes[0])

    return svg(draw, panels=1, taller=legend_height(["idle", *[label(content, row) for row in rows]]))


def calibration_chart(content: dict[str, Any], rows: list[dict[str, Any]]) -> Any | None:
    """Reliability: accuracy over mean top probability in bins; `rows`: subject, runner and bins each."""
    rows = [row for row in rows if row["bins"]][:MOST_LINES]
    if not rows:
        return None

    def draw(axes: Any) -> None:
        axes[0].plot([0, 100], [0, 100], color="gray", linewidth=0.8, linestyle="--", label="perfectly calibrated")
        for row in rows:
            confidence = [100 * part["confidence"] for part in row["bins"]]
            right = [100 * part["accuracy"] for part in row["bins"]]
            style = {"marker": "o", "markersize": 3, "linewidth": 1, **look(content, row)}
            axes[0].plot(confidence, right, **style, label=label(content, row))
        axes[0].set(xlabel="top probability, % (mean of a bin)", ylabel="right, %", xlim=(0, 102), ylim=(0, 102))
        legend(axes[0])

    return svg(draw, panels=1, taller=legend_height(["perfectly calibrated", *[label(content, row) for row in rows]]))


def pareto_points(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy and median latency of every subject and runner that has both, at the told scope and smallest batch.

    `front`: whether no other point is both faster and at least as accurate, or as fast and more accurate.
    """
    rows = [row for row in measured(content) if row["scope"] == told_boundary(content)]
    smallest = min((row["batch"] for row in rows), default=None)
    accuracy = {(row["subject"], row["runner"]): row for row in content["accuracy"]["rows"]}
    points = [
        {
            "subject": row["subject"], "runner": row["runner"], "p50": row["latency_ms"]["p50"],
            "p50_interval": row["p50_interval"], **{key: right[key] for key in ("accuracy", "interval")},
        }
        for row in rows
        if row["batch"] == smallest and (right := accuracy.get((row["subject"], row["runner"])))
    ]  # fmt: skip
    for one in points:
        one["front"] = not any(
            other["p50"] <= one["p50"]
            and other["accuracy"] >= one["accuracy"]
            and (other["p50"], other["accuracy"]) != (one["p50"], one["accuracy"])
            for other in points
        )
    return points


def pareto_chart(content: dict[str, Any]) -> Any | None:
    """Accuracy against latency, with intervals and the Pareto front; None for fewer than two points."""
    points = pareto_points(content)
    if len(points) < 2:
        return None

    def draw(axes: Any) -> None:
        front = sorted((point for point in points if point["front"]), key=lambda point: point["p50"])
        corners = [100 * point["accuracy"] for point in front]
        axes[0].step([point["p50"] for point in front], corners, where="post", color="gray", linewidth=0.8)
        for point in points:
            low, high = point["interval"]
            middle = 100 * point["accuracy"]
            face = {} if point["front"] else {"markerfacecolor": "none"}
            style = {"color": look(content, point)["color"], "marker": "o", "capsize": 2, "markersize": 5, **face}
            error = [[max(0.0, middle - 100 * low)], [max(0.0, 100 * high - middle)]]
            axes[0].errorbar(point["p50"], middle, yerr=error, **style)
        for point in points if len(points) <= 12 else front:
            at = (point["p50"], 100 * point["accuracy"])
            axes[0].annotate(
                label(content, point),
                at,
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axes[0].set(xlabel="p50 per call, ms", ylabel="top-1 accuracy, %", xscale="log")
        axes[0].margins(x=0.2)
        plain_ticks(axes[0].xaxis)

    return svg(draw, panels=1)


def plain_ticks(axis: Any) -> None:
    """Numbers instead of powers of ten on a logarithmic axis, whether it spans decades or a few per cent."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
    if high <= 5 * low:
        axis.set_minor_locator(NullLocator())

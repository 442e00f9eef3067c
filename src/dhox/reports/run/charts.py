"""Charts of report.html, as inline SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.metrics import GRADIENTS_FILE, METRICS_FILE, read_gradients, read_metrics
from dhox.errors import require
from dhox.reports.tables import STAGES

COLOURS = ["#3b82d6", "#e0802b", "#3a9e6b", "#b660c4", "#c2a21c", "#d4526e", "#3aa7b8", "#8a8f98"]


def learning_curves(run: Path) -> Any:
    """Losses and validation accuracies over epochs, as SVG."""
    metrics = read_metrics(run / METRICS_FILE)
    epochs, columns = metrics.epochs, metrics.columns
    accuracies = [name for name in columns if name.startswith("val_")]

    def draw(axes: Any) -> None:
        for name, label in {"ce_loss": "CE loss", "kd_loss": "KD loss"}.items():
            axes[0].plot(epochs, columns[name], label=label)
        axes[0].set(ylabel="loss", yscale="log")
        for name in accuracies:
            label = STAGES.get(name.removeprefix("val_"), "student")
            axes[-1].plot(epochs, [100 * value for value in columns[name]], label=label)
        if "head_agreement" in columns:
            agreement = [100 * value for value in columns["head_agreement"]]
            axes[-1].plot(epochs, agreement, linestyle=":", color="gray", label="heads agree")
        if accuracies:
            axes[-1].set_ylabel("validation accuracy, %")
        for ax in axes:
            ax.legend(frameon=False)
        axes[-1].set_xlabel("epoch")

    return svg(draw, panels=2 if accuracies else 1)


def gradient_chart(run: Path) -> Any:
    """Cosine of the two losses' backbone gradients over the steps, and its mean per stage, as SVG."""
    rows = read_gradients(run / GRADIENTS_FILE)
    whole = [row for row in rows if row.stage == "backbone"]
    stages = list(dict.fromkeys(row.stage for row in rows if row.stage != "backbone"))
    means = [np.mean([row.cosine for row in rows if row.stage == stage]) for stage in stages]

    def draw(axes: Any) -> None:
        axes[0].plot([row.step for row in whole], [row.cosine for row in whole], label="whole backbone")
        axes[0].axhline(0, color="gray", linewidth=0.8)
        axes[0].set(xlabel="step", ylabel="cosine")
        axes[1].barh(stages[::-1], means[::-1])
        axes[1].axvline(0, color="gray", linewidth=0.8)
        axes[1].set(xlabel="mean cosine, by stage")

    return svg(draw, panels=2, share_x=False)


def comparison_chart(rows: list[dict[str, Any]], fold: dict[str, Any]) -> Any:
    """Accuracy with its 95 % interval of every way to answer, as SVG; the exported one in the second colour.

    `rows`, `fold`: `comparison` and `fold` of an export's manifest.
    """
    plain = "linear_plain" if fold.get("z_norm") else "linear_tuned"
    ships = {"linear": plain, "heads": "dho"}.get(fold["rule"], fold["rule"])

    def draw(axes: Any) -> None:
        for place, row in enumerate(rows):
            low, high = (100 * bound for bound in row["interval"])
            accuracy, colour = 100 * row["accuracy"], "C1" if row["stage"] == ships else "C0"
            error = [[accuracy - low], [high - accuracy]]
            axes[0].errorbar(accuracy, place, xerr=error, fmt="o", color=colour, capsize=3, markersize=5)
        axes[0].set_yticks(range(len(rows)), [STAGES[row["stage"]] for row in rows])
        axes[0].invert_yaxis()
        axes[0].set_xlabel("validation accuracy, % (95 % interval)")

    return svg(draw, panels=1)


def svg(draw: Any, panels: int, share_x: bool = True, taller: float = 0.0) -> Any:
    """A matplotlib figure as inline SVG whose text and axes take the page's colour, in light and in dark.

    `taller`: inches beyond the usual height.
    """
    matplotlib = require("matplotlib", "report")
    markup = require("markupsafe", "report")
    from io import StringIO

    from matplotlib.figure import Figure

    ink = "#010203"  # stands for the page's text colour
    style = {
        "svg.fonttype": "none", "svg.hashsalt": "dhox", "text.color": ink, "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink, "ytick.color": ink, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 2.7 * panels + 0.4 + taller), layout="constrained")
        draw(np.atleast_1d(figure.subplots(panels, 1, sharex=panels > 1 and share_x)))
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return markup.Markup(text[text.index("<svg") :].replace(ink, "currentColor"))

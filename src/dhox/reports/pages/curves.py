"""How a training went: its learning curves, whether it should have been longer, and the conflict of its two losses."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dhox.artefacts.metrics import GRADIENTS_FILE, GradientRow, Metrics, read_gradients
from dhox.artefacts.run_directory import RunDirectory
from dhox.evidence.learning_curve import Slope, slope_at_the_end
from dhox.reports.charts import SMALL, svg, whole_ticks
from dhox.reports.sections import Chart
from dhox.reports.text import STAGES

FEW_EPOCHS = 5  # whose curves are marked point by point: one epoch alone draws no line


def slope_lines(folder: RunDirectory) -> tuple[str, ...]:
    """How validation accuracy rose at the end, and what twice the steps would likely add; none without validation and
    of too few epochs."""
    metrics, training = folder.metrics, folder.run.training
    if metrics is None or training is None:
        return ()
    slope = slope_at_the_end(metrics.validation) if metrics.validation else None
    return (slope_sentence(slope, training.epochs * training.epoch_steps),) if slope else ()


def slope_sentence(slope: Slope, steps: int) -> str:
    """The slope in words. `steps`: of the training."""
    low, high = slope.interval
    found = f"{slope.points:+.1f} points per doubling of the steps ({low:+.1f} to {high:+.1f})"
    if not slope.rising:
        return f"At the end validation accuracy rose no more than its scatter: {found}. Longer training may still help."
    least, most = slope.twice
    return (
        f"Not trained to its end: validation accuracy still rose, {found}. Twice the steps (--steps {2 * steps}) would "
        f"likely add {least:.1f} to {most:.1f} points."
    )


def training_charts(folder: RunDirectory) -> tuple[Chart, ...]:
    """Learning curves, and where it was probed the conflict of the two losses."""
    metrics, gradients = folder.metrics, read_gradients(folder.path / GRADIENTS_FILE)
    curves = "Loss per epoch (mean over its steps), and accuracy on all validation images."
    conflict = (
        "Cosine between the gradients of the CE loss and of the KD loss on the shared backbone, of the same batch "
        "(arXiv 2505.07675, figure 3). Below 0 the losses pull against each other. More: gradients.csv."
    )
    charts = []
    if metrics:
        charts.append(Chart("Learning curves", partial(learning_curves, metrics), curves))
    if gradients:
        charts.append(Chart("Gradient conflict", partial(_gradient_chart, gradients), conflict))
    return tuple(charts)


def learning_curves(metrics: Metrics) -> str:
    """Losses, and accuracies on validation where there is one, over the epochs."""
    accuracies = [name for name in metrics.columns if name.startswith("val_")]
    marker = "o" if len(metrics.epochs) < FEW_EPOCHS else ""

    def draw(axes: Any) -> None:
        for name, label in {"ce_loss": "CE loss", "kd_loss": "KD loss"}.items():
            axes[0].plot(metrics.epochs, metrics.columns[name], marker=marker, label=label)
        axes[0].set(ylabel="loss", yscale="log")
        for name in accuracies:
            label = STAGES.get(name.removeprefix("val_"), "student")
            axes[-1].plot(metrics.epochs, 100 * np.array(metrics.columns[name]), marker=marker, label=label)
        if "head_agreement" in metrics.columns:
            agreement = 100 * np.array(metrics.columns["head_agreement"])
            axes[-1].plot(metrics.epochs, agreement, linestyle=":", color="gray", label="heads agree")
        if accuracies:
            axes[-1].set_ylabel("validation accuracy, %")
        for ax in axes:
            ax.legend(fontsize=SMALL)
        axes[-1].set_xlabel("epoch")
        whole_ticks(axes[-1].xaxis)

    return svg(draw, panels=2 if accuracies else 1)


def _gradient_chart(rows: list[GradientRow]) -> str:
    """Cosine of the two losses' backbone gradients over the steps, and its mean per stage."""
    whole = [row for row in rows if row.stage == "backbone"]
    stages = list(dict.fromkeys(row.stage for row in rows if row.stage != "backbone"))
    means = [float(np.mean([row.cosine for row in rows if row.stage == stage])) for stage in stages]

    def draw(axes: Any) -> None:
        axes[0].plot([row.step for row in whole], [row.cosine for row in whole], label="whole backbone")
        axes[0].axhline(0, color="gray", linewidth=0.8)
        axes[0].set(xlabel="step", ylabel="cosine")
        whole_ticks(axes[0].xaxis)
        axes[1].barh(stages[::-1], means[::-1])
        axes[1].axvline(0, color="gray", linewidth=0.8)
        axes[1].set(xlabel="mean cosine, by stage")

    return svg(draw, panels=2, share_x=False)

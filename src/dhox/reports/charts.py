"""Charts as inline SVG, in the colours of the page around them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dhox.errors import require

COLOURS = ["#3b82d6", "#e0802b", "#3a9e6b", "#b660c4", "#c2a21c", "#d4526e", "#3aa7b8", "#8a8f98"]
WIDTH = 4.6  # inches; a phone of 400 pixels shows five sixths of it
SMALL = 9.5  # points, of legends and names in a chart: more than 10 pixels on that phone
INK = "#010203"  # stands for the page's text colour
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "dhox", "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False,
}  # fmt: skip


def svg(draw: Callable[[Any], None], panels: int = 1, labels: Iterable[str] = (), share_x: bool = True) -> str:
    """A matplotlib figure as inline SVG whose text and axes take the page's colour, in light and in dark.

    `draw`: gets the axes of the panels, one above the other; `labels`: of the legend, which stands above the first
    panel so that it hides no line.
    """
    matplotlib = require("matplotlib", "report")
    markupsafe = require("markupsafe", "report")
    from matplotlib.figure import Figure

    longest = max(map(len, labels), default=0)
    columns = 3 if longest < 12 else 2 if longest < 23 else 1
    height = 2.6 * panels + 0.4 + 0.21 * -(-len([*labels]) // columns)
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": matplotlib.cycler(color=COLOURS)}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = np.atleast_1d(figure.subplots(panels, 1, sharex=panels > 1 and share_x))
        draw(axes)
        if longest:
            axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=SMALL)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    drawn: str = markupsafe.Markup(text[text.index("<svg") :].replace(INK, "currentColor"))
    return drawn


def whole_ticks(axis: Any) -> None:
    """Whole numbers alone: epochs and steps have no fractions."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def plain_ticks(axis: Any) -> None:
    """Numbers instead of powers of ten on a logarithmic axis, whether it spans decades or a few per cent."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
    if high <= 5 * low:
        axis.set_minor_locator(NullLocator())

"""From a camera's raw frames: what each way takes, and the share of it that is preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from dhox.artefacts.bench import Bench, ModelRow
from dhox.artefacts.bench_latency import ComparisonRow, LatencyRow
from dhox.reports.charts import svg
from dhox.reports.sections import Chart, Section, cells, table
from dhox.reports.text import milliseconds_interval

MOST_BARS = 12
WAYS = {"graph": "in the graph", "Pillow": "Pillow", "OpenCV": "OpenCV"}


class WayRow(NamedTuple):
    """One way at one batch size. `model_ms`: of the ordinary file alone at scope e2e, per frame; None where that was
    not timed. `against`: the comparison with the way behind Pillow; None where there is none."""

    model: ModelRow
    latency: LatencyRow
    model_ms: float | None
    against: ComparisonRow | None

    @property
    def ms(self) -> float:
        """Median per frame."""
        return self.latency.latency_ms.p50 / self.latency.batch

    @property
    def share(self) -> float | None:
        """Of the time, what preprocessing takes; not below 0, where noise is larger than it."""
        return None if self.model_ms is None else max(0.0, 1 - self.model_ms / self.ms)


def way_rows(bench: Bench) -> Iterator[WayRow]:
    """The rows of scope camera, in the order of bench.json."""
    models = {model.name: model for model in bench.models}
    ordinary = {
        (models[row.model].export, models[row.model].precision, row.runner, row.batch): row.latency_ms.p50 / row.batch
        for row in bench.measured_latency
        if row.scope == "e2e" and models[row.model].camera is None
    }
    pairs = {(row.model, row.runner, row.batch): row for row in bench.comparisons if row.scope == "camera"}
    for row in bench.measured_latency:
        model = models[row.model]
        if row.scope != "camera" or model.camera is None:
            continue
        against = pairs.get((row.model, row.runner, row.batch))
        if against is not None and not _same_runner_behind_pillow(against, models):
            against = None
        alone = ordinary.get((model.export, model.precision, row.runner, row.batch))
        yield WayRow(model, row, alone, against)


def _same_runner_behind_pillow(row: ComparisonRow, models: dict[str, ModelRow]) -> bool:
    way = models[row.reference_model].camera
    return way is not None and way.way == "Pillow" and row.reference_runner == row.runner


def camera_section(bench: Bench) -> Section:
    """A row per camera, way and batch size; nothing where no camera was timed."""
    rows = list(way_rows(bench))
    if not rows:
        return Section()
    lines = []
    for row in rows:
        assert row.model.camera is not None
        low, high = (end / row.latency.batch for end in row.latency.p50_interval)
        ratio = row.against
        lines.append(
            cells(
                *(row.model.camera.name, row.model.precision, row.latency.runner, row.latency.batch),
                *(WAYS[row.model.camera.way], milliseconds_interval(row.ms, (low, high))),
                "-" if row.share is None else f"{100 * row.share:.0f} %",
                _ratio(row, ratio),
            )
        )
    caption = (
        "Raw frame in host memory to probabilities; ms per frame, medians. Preprocessing: what is above the ordinary "
        "file's own median (scope e2e). Times with 95 % intervals."
    )
    missing = all(row.share is None for row in rows)
    notes = ("The share needs scope e2e of the ordinary file: --scope e2e,camera.",) if missing else ()
    titles = "camera|<precision|<runner|batch|<way|ms a frame|preprocessing|time / Pillow"
    chart = Chart("Where the time of a frame goes", partial(shares_chart, rows), "The smallest batch, ms per frame.")
    return Section("From the camera", tables=table(titles, lines, caption), charts=(chart,), notes=notes)


def _ratio(row: WayRow, ratio: ComparisonRow | None) -> str:
    if ratio is None:
        return "1" if row.model.camera is not None and row.model.camera.way == "Pillow" else "-"
    return f"{ratio.ratio:.3g} ({ratio.interval[0]:.3g}-{ratio.interval[1]:.3g})"


def shares_chart(rows: list[WayRow]) -> str:
    """Bars of the ordinary file's time and of the preprocessing before it, at the smallest batch."""
    smallest = min(row.latency.batch for row in rows)
    shown = [row for row in rows if row.latency.batch == smallest][:MOST_BARS]
    names = [_bar_name(row, shown) for row in shown]
    parts = [(row.model_ms or 0.0, row.ms) for row in shown]
    split = all(row.model_ms is not None for row in shown)

    def draw(axes: Any) -> None:
        ends = [min(model, whole) for model, whole in parts]
        before = [whole - end for (_, whole), end in zip(parts, ends, strict=True)]
        axes[0].barh(names, before, label="preprocessing" if split else None)
        if split:
            axes[0].barh(names, ends, left=before, label="model")
        axes[0].invert_yaxis()
        axes[0].set(xlabel="ms per frame")

    return svg(draw, labels=["preprocessing", "model"] if split else [])


def _bar_name(row: WayRow, shown: list[WayRow]) -> str:
    """The way, with camera, precision and runner in a second line where these differ."""
    assert row.model.camera is not None
    name = WAYS[row.model.camera.way]
    about = {(one.model.camera and one.model.camera.name, one.model.precision, one.latency.runner) for one in shown}
    return name if len(about) == 1 else f"{name}\n{row.model.camera.name}\n{row.model.precision} {row.latency.runner}"

"""What can be read off a chart: every axis has numbers, epochs are whole."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from dhox.artefacts.bench_latency import LatencyMs
from dhox.artefacts.metrics import Metrics
from dhox.artefacts.sweep import KnownAccuracy, SweepRow
from dhox.reports.pages.curves import learning_curves
from dhox.reports.pages.sweep import scatter


def row(student: str, ms: float, parameters: float, accuracy: float) -> SweepRow:
    known = KnownAccuracy(
        accuracy=accuracy, interval=(accuracy - 0.02, accuracy + 0.02), n=100, split="test", data="d", method="dho",
        what="w", run="r",
    )  # fmt: skip
    times = dict.fromkeys(("p50", "p90", "p95", "p99", "max", "min", "mean"), ms)
    return SweepRow(
        student=student, image_size=224, parameters=int(parameters), bytes=1, latency_ms=LatencyMs(**times, mad=0.0),
        p50_interval=(0.98 * ms, 1.02 * ms), p99_interval=None, images_per_s=1000 / ms, flags=[], runner="onnxruntime",
        mj_per_image=3 * ms, net_mj_per_image=None, accuracy=known,
    )  # fmt: skip


def ticks(drawn: str, axis: str, panel: int = 1) -> list[str]:
    """The labels of an axis, from its start to its end."""
    svg = "{http://www.w3.org/2000/svg}"
    axes = next(one for one in ElementTree.fromstring(drawn).iter(f"{svg}g") if one.get("id") == f"axes_{panel}")
    found = [one for one in axes.iter(f"{svg}g") if one.get("id", "").startswith(f"{axis}tick_")]
    return ["".join(text.itertext()) for tick in found for text in tick.iter(f"{svg}text")]


@pytest.mark.parametrize("what", ["accuracy, % (95 % interval)", "parameters, millions", "energy, mJ per image"])
@pytest.mark.parametrize("milliseconds", [(1.0,), (2.0, 2.1), (3.1, 4.4, 4.9), (0.3, 40.0), (0.011, 0.019), (5.2, 9.9)])
@pytest.mark.parametrize("budget", [None, 6.0])
def test_both_axes_of_a_sweep_have_numbers(what: str, milliseconds: tuple[float, ...], budget: float | None) -> None:
    rows = [row(f"s{i}", ms, 1e6 * (1 + 0.2 * i), 0.7 + 0.01 * i) for i, ms in enumerate(milliseconds)]
    drawn = scatter(rows, what, ["s0"], budget)
    for axis in "xy":
        numbers = [float(text.replace("−", "-")) for text in ticks(drawn, axis)]
        assert len(numbers) >= 2, (axis, numbers)
        assert len({*numbers}) == len(numbers)
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7, 30, 300])
def test_epochs_are_whole_numbers(epochs: int) -> None:
    columns = {"ce_loss": [1.0] * epochs, "kd_loss": [0.5] * epochs, "val_ce_head": [0.5] * epochs}
    drawn = learning_curves(Metrics([*range(1, epochs + 1)], columns))
    labels = ticks(drawn, "x", panel=2)
    assert labels
    assert all(re.fullmatch(r"−?\d+", label) for label in labels), labels

"""`dhox bench --power-modes`: one bench per power mode of a Jetson, and the modes side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dhox.bench.power_modes import power_mode_sweep
from dhox.bench.run import BenchResult
from dhox.console import console, say
from dhox.errors import UsageError
from dhox.nvpmodel import PowerMode

WIDTH = 98  # columns


def bench_modes(run: Callable[[Path], BenchResult], out: Path | None) -> list[BenchResult]:
    """Measure in each power mode that needs no reboot, into OUT/ID-NAME; the original mode is set again at the end.

    `run`: the bench, called with its directory. What is left out is said, with the reason. Raises UsageError without
    `out`, and whatever power_mode_sweep raises.
    """
    if out is None:
        raise UsageError("--power-modes writes one bench directory per mode. Say where: --power-modes --out DIR.")
    measured: list[tuple[PowerMode, BenchResult]] = []
    not_run: list[str] = []
    with power_mode_sweep(not_run) as modes:
        for mode in modes:
            say(f"Power mode {mode.name} (id {mode.id})")
            measured.append((mode, run(out / f"{mode.id}-{mode.name}")))
            if measured[-1][1].content["status"] == "interrupted":
                break
    for line in not_run:
        say(f"{line[0].upper()}{line[1:]}.")
    print_modes([(mode, result.content) for mode, result in measured])
    return [result for _, result in measured]


def print_modes(measured: list[tuple[PowerMode, dict[str, Any]]]) -> None:
    """Latency and energy of every model by power mode, at its smallest batch and first boundary, energy at that batch.

    Modes are measured one after the other, not interleaved, since changing them takes seconds: no intervals of ratios.
    """
    table = Table(title="Power modes, measured one after the other", width=min(console.width, WIDTH))
    for name in ("mode", "model", "runner", "batch", "boundary", "p50 ms", "images/s", "mJ/image"):
        table.add_column(name, justify="left" if name in {"mode", "model", "runner", "boundary"} else "right")
    for mode, content in measured:
        energy = {
            (row["subject"], row["runner"], row["batch"]): row["mj_per_image"] for row in content["energy"]["rows"]
        }
        for row in first_rows(content["latency"]):
            mj = energy.get((row["subject"], row["runner"], row["batch"]))
            table.add_row(
                escape(mode.name), escape(row["subject"]), escape(row["runner"]), str(row["batch"]), row["boundary"],
                f"{row['latency_ms']['p50']:.3f}", f"{row['images_per_s']:,.0f}", "-" if mj is None else f"{mj:.1f}",
            )  # fmt: skip
    console.print(table)


def first_rows(latency: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model and runner the first boundary of the smallest batch; emulated rows are left out."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in latency:
        key = (row["subject"], row["runner"])
        if not row["emulated"] and (key not in found or row["batch"] < found[key]["batch"]):
            found[key] = row
    return list(found.values())

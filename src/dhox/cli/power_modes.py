"""`dhox bench --power-modes`: one bench per power mode of a Jetson, and the modes side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_latency import LatencyRow
from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, check_output
from dhox.bench.interrupts import stopping_signals
from dhox.bench.options import Output
from dhox.bench.power_modes import power_mode_sweep
from dhox.bench.run import BenchResult
from dhox.console import say
from dhox.errors import DhoxError, StoppedError, UsageError
from dhox.reports.sections import Section, cells, table
from dhox.reports.terminal import show_section
from dhox.system.nvpmodel import PowerMode


def bench_modes(run: Callable[[Path], BenchResult], output: Output) -> tuple[list[BenchResult], Exception | None]:
    """Measure in each power mode that needs no reboot, into OUT/ID-NAME; the original mode is set again at the end.

    `run`: the bench, called with its directory. What was left out or failed is said, with the reason, and does not keep
    the other modes from being measured. Answers with the benches, and with the error to raise once they are reported: a
    mode failed, the sweep was interrupted, or the mode could not be set back. Raises DhoxError where a directory is in
    the way (before anything is measured), and whatever stopped a sweep that measured nothing.
    """
    out = output.out
    assert out is not None, "the options were checked"
    measured: list[tuple[PowerMode, BenchResult]] = []
    failed: list[DhoxError] = []
    not_run: list[str] = []
    ended: Exception | None = None
    try:
        with stopping_signals() as stop, power_mode_sweep(not_run) as (planned, modes):
            for mode in planned:
                check_output(directory(out, mode), BENCH_FILE, BENCH_SCHEMA, output.overwrite)
            for mode in modes:
                say(f"Power mode {mode.name} (id {mode.id})")
                try:
                    measured.append((mode, run(directory(out, mode))))
                except UsageError:
                    raise
                except DhoxError as err:
                    stop.check()
                    failed.append(err)
                    not_run.append(f"power mode {mode.name} ({mode.id}) failed: {str(err).rstrip('.')}")
                    continue
                if measured[-1][1].bench.status == "interrupted":
                    break
            stop.check()
            if failed and not measured:
                raise failed[0]
    except (Exception, KeyboardInterrupt) as err:
        if not measured:
            raise
        ended = interrupted(out) if isinstance(err, KeyboardInterrupt) else err
    for line in not_run:
        say(f"{line[0].upper()}{line[1:]}.")
    _print_modes([(mode, result.bench) for mode, result in measured])
    if failed and ended is None:
        reason = str(failed[0]).rstrip(".")
        ended = DhoxError(
            f"{len(failed)} of the power modes failed ({reason}).",
            f"{out} holds the others; mend that, then run it again with --overwrite, or with another --out.",
        )
    return [result for _, result in measured], ended


def directory(out: Path, mode: PowerMode) -> Path:
    """Where a mode's bench goes."""
    return out / f"{mode.id}-{mode.name}"


def interrupted(out: Path) -> DhoxError:
    """The error of a sweep that a signal ended after its first bench."""
    return StoppedError(
        "The power modes were interrupted.",
        f"{out} holds what was measured; run it again with --overwrite, or with another --out.",
    )


def _print_modes(measured: list[tuple[PowerMode, Bench]]) -> None:
    """Latency and energy of every model by power mode, at its smallest batch and first scope, energy at that batch.

    Modes are measured one after the other, not interleaved, since changing them takes seconds: no intervals of ratios.
    """
    rows = []
    for mode, bench in measured:
        energy = {(row.model, row.runner, row.batch): row.mj_per_image for row in bench.energy.rows}
        for row in _first_rows(bench.measured_latency):
            ms, mj = row.latency_ms.p50, energy.get((row.model, row.runner, row.batch))
            speed = (f"{ms:.3f}", f"{row.images_per_s:,.0f}", "-" if mj is None else f"{mj:.1f}")
            rows.append(cells(mode.name, row.model, row.runner, row.batch, row.scope, *speed))
    titles = "mode|<model|<runner|batch|<scope|p50 ms|images/s|mJ/image"
    show_section(Section("Power modes, measured one after the other", tables=table(titles, rows)))


def _first_rows(latency: list[LatencyRow]) -> list[LatencyRow]:
    """Of each model and runner the first scope of the smallest batch."""
    found: dict[tuple[str, str], LatencyRow] = {}
    for row in latency:
        key = (row.model, row.runner)
        if key not in found or row.batch < found[key].batch:
            found[key] = row
    return list(found.values())

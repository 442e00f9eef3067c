"""The bench command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhox.bench.options import BenchOptions, check
from dhox.cli.common import Gallery, find_newest, redraw, say_report
from dhox.cli.interrupts import on_interrupt, typed
from dhox.options.command import examples, with_options
from dhox.options.declare import replaced

if TYPE_CHECKING:
    from dhox.bench.run import BenchResult

EXAMPLES = examples(
    "dhox bench runs/photos/export --batch 1,8,32",
    "dhox bench runs/a/export runs/b/export --device tensorrt",
    "dhox bench runs/photos/export --host user@orin --device jetson",
)


@with_options
def bench(
    models: Annotated[list[Path] | None, typer.Argument(help="Export directories, model files of exports, or ONNX files with --contract; several are measured interleaved.", metavar="EXPORT|MODEL", show_default="the newest export below here")] = None,
    gallery: Gallery = None,
    options: BenchOptions = BenchOptions(),
) -> None:  # fmt: skip
    """Measure latency, throughput, energy and accuracy of the very files that ship. Needs no torch."""
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA

    check(options)
    paths = models or [find_newest(EXPORT_FILE, EXPORT_SCHEMA, "export", "dhox export RUN")]
    with on_interrupt(lambda: f"What was written is kept. To run it again: {typed()}"):
        if options.where.host is None:
            results, ended = measure(paths, options)
        else:
            from dhox.bench.remote.run import bench_remote

            results, ended = bench_remote(paths, options)
    from dhox.reports.pages.bench import bench_page
    from dhox.reports.terminal import show

    for result in results:
        show(bench_page(result.bench, result.directory))
    finish(results, ended, gallery)


def measure(paths: list[Path], options: BenchOptions) -> tuple[list[BenchResult], Exception | None]:
    """Measure on this machine, in each of its power modes where that is asked for; and what ended it early."""
    from dhox.bench.run import bench as run_bench
    from dhox.cli.power_modes import bench_modes

    if options.where.power_modes:
        return bench_modes(lambda out: run_bench(paths, replaced(options, out=out)), options.output)
    return [run_bench(paths, options)], None


WRONG_OUTPUTS = "Do not ship it: compare ONNX Runtime's versions here and where it was exported, then export again."
WRONG_PREPROCESSING = (
    "The model itself answers as it should: compare Pillow's versions here and where it was exported, and what changes "
    "images before the model."
)


def runs_of(results: list[BenchResult]) -> list[Path]:
    """The runs whose page shows one of these benches: those that hold the export and the bench."""
    from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, holds

    found: dict[Path, bool] = {}
    for result in results:
        for export in (Path(model.export.path) for model in result.bench.models if model.export):
            run = export.parent
            inside = result.directory.resolve().is_relative_to((run / "bench").resolve())
            if export.name == "export" and inside and holds(run, RUN_FILE, RUN_SCHEMA):
                found[run] = True
    return list(found)


def renew_card(run: Path) -> None:
    """Write the model card of a run's export again, with what the newest bench of it measured."""
    from dhox.export.model_card import write_card
    from dhox.reports.pages.run import read_line

    line = read_line(run)
    if line.manifest is not None and line.bench is not None:
        write_card(run / "export", line.manifest, line.folder, line.bench)


def finish(results: list[BenchResult], ended: Exception | None = None, gallery: int | None = None) -> None:
    """Write the reports, and raise what the exit code must say of the results; `ended`: what ended them early;
    `gallery`: pictures of each kind."""
    from dhox.artefacts.files import BENCH_FILE
    from dhox.errors import DhoxError, GateFailedError, StoppedError

    for result in results:
        say_report(result.directory, gallery=gallery)
    for run in runs_of(results):
        renew_card(run)
        redraw(run, gallery)
    if ended is not None:
        raise ended
    for result in results:
        for row in result.bench.golden:
            if not row.passed:
                raise GateFailedError(
                    f"{row.model} by {row.runner} fails its golden check there ({row.failure}; see "
                    f"{result.directory / BENCH_FILE}).",
                    WRONG_PREPROCESSING if row.outputs_passed else WRONG_OUTPUTS,
                )
    if results and results[-1].bench.status == "interrupted":
        raise StoppedError(
            "The bench was interrupted.", f"{results[-1].directory} holds what it measured; run it again for the rest."
        )
    for result in results:
        if not result.bench.latency and not result.bench.emulated:
            why = "; ".join(dict.fromkeys(missing.text for missing in result.bench.not_run)) or "nothing says why"
            raise DhoxError(f"No latency was measured ({why}).", "Choose other batch sizes, scopes or runners.")

"""The command sweep. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhox.bench.sweep.options import SweepOptions
from dhox.cli.common import say_report
from dhox.cli.interrupts import nothing_written, on_interrupt, typed
from dhox.console import say, say_next
from dhox.errors import GateFailedError, StoppedError, UsageError
from dhox.options.command import examples, with_options
from dhox.options.declare import command_line

if TYPE_CHECKING:
    from dhox.artefacts.sweep import Sweep

EXAMPLES = examples(
    "dhox sweep --students resnet18,mobilenetv4_conv_small --budget 5ms",
    "dhox sweep --students resnet18,efficientnet_b0 --fp16 --device tensorrt",
    "dhox sweep --host user@orin --device jetson --budget 5ms",
)


@with_options
def sweep(
    export_only: Annotated[bool, typer.Option("--export-only", help="Fill --candidates and stop.")] = False,
    options: SweepOptions = SweepOptions(),
) -> None:
    """Measure untrained students, and say which to distill for a latency budget. Needs torch only to export them."""
    from dhox.bench.sweep.run import find_candidates
    from dhox.bench.sweep.run import sweep as run_sweep
    from dhox.reports.pages.sweep import sweep_page
    from dhox.reports.terminal import show

    students = options.students
    _ = options.measuring.budget_ms
    if not students.names and (export_only or not students.candidates.is_dir()):
        raise UsageError("No students to sweep.", "Name them: --students resnet18,mobilenetv4_conv_small.")
    if export_only:
        with on_interrupt(nothing_written):
            found, failed = find_candidates(options)
        for row in failed:
            say(f"Not exported: {row.student}: {row.reason}")
        say(f"{students.candidates} holds {', '.join(candidate.export.name for candidate in found)}.")
        say_next("sweep", *command_line(options, {"students"}), "--budget=5ms")
        return
    with on_interrupt(lambda: f"What was exported and measured is kept. To run it again: {typed()}"):
        result = run_sweep(options)
    show(sweep_page(result.directory, result.sweep))
    say_report(result.directory, "sweep.html")
    finish(result.sweep, result.directory, options)


def finish(swept: Sweep, directory: Path, options: SweepOptions) -> None:
    """Say what follows, and raise what the exit code must say."""
    if swept.status == "interrupted":
        raise StoppedError(
            "The sweep was interrupted.", f"{directory} holds what it measured; run it again for the rest."
        )
    choice = swept.choice
    if choice and not choice.distill:
        smaller = "int8 (dhox export --int8)" if options.students.fp16 else "--fp16"
        raise GateFailedError(
            choice.reasons[0], f"Try smaller images (--image-size), {smaller}, smaller students, or a larger budget."
        )
    sides = {row.student: row.image_size for row in swept.rows if row.accuracy is None}
    untrained = [student for student in (choice.distill if choice else []) if student in sides]
    if untrained:
        say_next("distill", "DATA", "--student", untrained[0], "--image-size", sides[untrained[0]])

"""The add-class command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import quiet_training_libraries, say_report
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.console import say_next
from dhox.distill.small_options import AddClassOptions
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox add-class runs/photos scooter --images new/scooter",
    "dhox add-class runs/photos scooter --images new --max-accuracy-drop 1",
)


@with_options
def add_class(
    run: Annotated[Path, typer.Argument(help="Run directory, which stays as it is.")],
    name: Annotated[str, typer.Argument(help="Name of the new class.")],
    options: AddClassOptions,
    out: Annotated[Path | None, typer.Option(help="The new run directory.", show_default="RUN-NAME")] = None,
) -> None:
    """Add a class to a finished run from a few images of it: one row in each head; the backbone stays as it is."""
    quiet_training_libraries()
    from dhox.distill.growing.add_class import add_class as run_add
    from dhox.distill.growing.add_class import check_drop
    from dhox.reports.pages.added import added_page
    from dhox.reports.terminal import show

    with on_interrupt(nothing_written):
        result = run_add(run, name, out or run.with_name(f"{run.resolve().name}-{name.strip()}"), options)
    show(added_page(result.run, result.summary))
    say_report(result.run)
    check_drop(result.added, options.new.max_accuracy_drop)
    say_next("export", result.run, "--fold-heads", "--fp16")

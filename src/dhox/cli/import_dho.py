"""The import-dho command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import quiet_training_libraries
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.console import say_next
from dhox.distill.small_options import ImportOptions
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox import-dho dho_vitb16_1p.pt --arch ViT-B-16 --classes imagenet",
    "dhox import-dho caltech.pt --arch resnet18 --classes names.txt --data caltech",
)


@with_options
def import_dho(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pt) of the authors' code, as huggingface.co/erjui/dho has them.")],
    options: ImportOptions,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-FILE")] = None,
) -> None:  # fmt: skip
    """Turn a checkpoint of the DHO authors' code into a run directory for dhox export."""
    quiet_training_libraries()
    from dhox.distill.students.import_dho import import_dho as run_import
    from dhox.reports.pages.run import run_page
    from dhox.reports.terminal import show

    with on_interrupt(nothing_written):
        result = run_import(file, out or Path("runs") / file.stem, options)
    show(run_page(result.run))
    say_next("export", result.run, "--fold-rule", "exact")

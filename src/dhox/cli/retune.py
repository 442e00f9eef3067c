"""The retune command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import say_report
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.console import say, say_next
from dhox.distill.small_options import RetunedExport, RetuneOptions
from dhox.errors import UsageError, require
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox retune runs/photos --metric balanced",
    "dhox retune runs/photos --alpha 0.4 --beta 0.5",
    "dhox retune runs/photos/export --r 1.5 --out runs/photos/retuned",
)


@with_options
def retune(
    directory: Annotated[Path, typer.Argument(help="Run directory of method dho, rewritten; or export directory, which gives a new one.", metavar="RUN|EXPORT")],
    out: Annotated[Path | None, typer.Option(help="The new export directory.", show_default="EXPORT-retuned")] = None,
    options: RetuneOptions = RetuneOptions(),
) -> None:  # fmt: skip
    """Choose alpha, beta, r and tau again, or set them, from stored validation logits. Needs no torch."""
    from dhox.artefacts.files import EXPORT_FILE, settle_any
    from dhox.distill.results.retune import retune as run_retune
    from dhox.reports.pages.run import run_page
    from dhox.reports.terminal import show

    settle_any(directory)
    if (directory / EXPORT_FILE).is_file():
        require("onnx", "export")
        from dhox.export.retuning.run import retune_export
        from dhox.reports.pages.export import export_page

        with on_interrupt(nothing_written):
            retuned = retune_export(directory, out, options)
        show(export_page(retuned.export, retuned.manifest, retuned.ledger))
        say_next("bench", retuned.export, "--device", "auto")
        return
    if out is not None or options.export != RetunedExport():
        raise UsageError(
            f"{directory} is no export directory, and --r, --tau, --out, --data and --overwrite are for exports.",
            "Give the directory that dhox export wrote.",
        )
    with on_interrupt(nothing_written):
        result = run_retune(directory, options.chosen)
    show(run_page(result.run))
    say("alpha, beta before: ({:g}, {:g})".format(*result.before))
    say_report(result.run)
    say_next("export", result.run, "--fold-heads", "--fp16", "--overwrite")

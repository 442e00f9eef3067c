"""The drift command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from dhox.bench.drift.options import DriftOptions
from dhox.cli.common import Gallery, answer, say_report
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox drift runs/photos/export field/",
    "dhox drift runs/photos/export answers.jsonl --max-estimated-drop 5",
)


@with_options
def drift(
    export: Annotated[Path, typer.Argument(help="Export directory.")],
    images: Annotated[list[str], typer.Argument(help="Field images without labels, as predict takes them (no cameras); or files that predict --jsonl or --csv wrote on a board.", metavar="IMAGES...")],
    gallery: Gallery = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    options: DriftOptions = DriftOptions(),
) -> None:  # fmt: skip
    """Say without labels what field images do to an export: shift, estimated accuracy, odd images. Needs no torch.

    Accuracy is estimated from confidences, calibrated on the export's validation answers; docs/drift.md says how well.
    """
    import msgspec

    from dhox.bench.drift.run import check_drop
    from dhox.bench.drift.run import drift as run_drift
    from dhox.progress import quietly
    from dhox.reports.pages.drift import drift_page

    with on_interrupt(nothing_written), quietly() if as_json else nullcontext():
        result = run_drift(export, images, options)
    answer(drift_page(result.directory, result.drift), msgspec.to_builtins(result.drift), as_json)
    if not as_json:
        say_report(result.directory, "drift.html", gallery=gallery)
    check_drop(result.drift)

"""The distill command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import Gallery, is_first_process, quiet_training_libraries, say_report
from dhox.cli.export_check import ExportCheck, export_verdict
from dhox.cli.interrupts import on_interrupt, typed
from dhox.console import say_next
from dhox.distill.options import DistillOptions, check
from dhox.errors import UsageError
from dhox.options.command import examples, with_options
from dhox.options.recipe import read_recipe

EXAMPLES = examples(
    "dhox distill photos --shots 16 --student resnet18",
    "dhox distill photos --shots 16 --dry-run",
    "dhox distill photos --method dho,ce --seeds 3 --out runs/comparison",
)


def _use_recipe(context: typer.Context, file: Path | None) -> Path | None:
    """--recipe: its values become the command's defaults, before any other option is read."""
    if file is not None:
        context.default_map = read_recipe(file, DistillOptions)
    return file


@with_options
def distill(
    data: Annotated[Path | None, typer.Argument(help="Image folder (train/CLASS/*, unlabelled/**, val/, test/), .csv/.tsv/.parquet manifest, export of Label Studio (.json, .csv) or CVAT (annotations.xml), folder of .tar shards, saved Hugging Face dataset or hf:ORG/NAME.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of options, or dho-paper; options given beside it win.", callback=_use_recipe, is_eager=True)] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-DATA")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost (disk, memory, hours), and stop.")] = False,
    export_check: ExportCheck = None,
    gallery: Gallery = None,
    options: DistillOptions = DistillOptions(),
) -> None:  # fmt: skip
    """Train a dual-head student (DHO) on few labels, many unlabelled images and a CLIP teacher."""
    from dhox.data.dataset import WHAT_DATA_MAY_BE, check_exists, data_name

    if data is None:
        raise UsageError("dhox distill needs DATA.", f"{WHAT_DATA_MAY_BE} To see the whole line at work: dhox demo")
    check(options)
    if gallery is not None and (dry_run or options.training.compares):
        raise UsageError("--gallery is for the page of a run, and this writes none.", "Leave it out.")
    check_exists(data)
    out = out or Path("runs") / data_name(data)
    quiet_training_libraries()
    from dhox.distill.processes import leave, told_of_lost_processes
    from dhox.reports.pages.run import run_page
    from dhox.reports.pages.training import comparison_page, plan_page
    from dhox.reports.terminal import show

    try_export = partial(export_verdict, options, export_check)
    if dry_run:
        from dhox.distill.dry_run import plan

        found = plan(data, out, options)
        show(plan_page(found, try_export()))
        return
    if options.training.compares:
        from dhox.distill.compare_methods import compare

        with on_interrupt(lambda: kept_of_comparison(out)), told_of_lost_processes():
            content = compare(data, out, options, try_export)
            leave()
        show(comparison_page(out, content))
        return
    from dhox.distill.run import distill as run_distill

    with on_interrupt(lambda: kept(data, out, options)), told_of_lost_processes():
        result = run_distill(data, out, options, try_export=try_export)
        leave()
    show(run_page(result.run))
    if is_first_process():
        say_report(result.run, gallery=gallery)
    say_next("export", result.run, "--fold-heads", "--fp16")


def kept(data: Path, out: Path, options: DistillOptions) -> str:
    """What an interrupted training leaves, and how it goes on."""
    from dhox.artefacts.files import partial_directory
    from dhox.distill.resume import may_resume
    from dhox.distill.run import settings_of_training

    if may_resume(out, settings_of_training(data, options)):
        return f"{partial_directory(out)} holds the last checkpoint; continue with: {typed('--resume')}"
    return f"There is no checkpoint yet; what was embedded and packed is kept. To run it again: {typed()}"


def kept_of_comparison(out: Path) -> str:
    """What an interrupted comparison leaves, and how it goes on."""
    from dhox.artefacts.files import CHECKPOINT, RUN_FILE, RUN_SCHEMA, head_of

    heads = [head_of(path, RUN_SCHEMA) for path in out.glob(f"*/{RUN_FILE}")]
    finished = sum(head is not None and head.status == "complete" for head in heads)
    if finished or any(out.glob(f"*/{CHECKPOINT}")):
        return f"{finished} trainings in {out} are finished; continue with: {typed('--resume')}"
    return f"No training is finished; what was embedded and packed is kept. To run it again: {typed()}"

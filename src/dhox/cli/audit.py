"""The audit command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from dhox.cli.common import Gallery, quiet_training_libraries, say_report
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.console import say_next
from dhox.distill.small_options import AuditOptions
from dhox.options.command import examples, with_options
from dhox.options.declare import command_line

if TYPE_CHECKING:
    from dhox.artefacts.audit import Audit

EXAMPLES = examples(
    "dhox audit photos --shots 16",
    "dhox audit pile --labels labels.csv --prompts prompts.txt",
    "dhox audit photos --small-clip MobileCLIP-S1/datacompdr --templates imagenet",
)


@with_options
def audit(
    data: Annotated[Path, typer.Argument(help="DATA, as for distill.")],
    out: Annotated[Path | None, typer.Option(help="Audit directory.", show_default="audits/NAME-OF-DATA")] = None,
    gallery: Gallery = None,
    options: AuditOptions = AuditOptions(),
) -> None:
    """Before training: what the teacher knows of DATA, leaks and odd images, and whether distilling can pay."""
    from dhox.data.dataset import check_exists, data_name

    check_exists(data)
    quiet_training_libraries()
    from dhox.distill.auditing.audit import audit as run_audit
    from dhox.reports.pages.audit import audit_page
    from dhox.reports.terminal import show

    out = out or Path("audits") / data_name(data)
    with on_interrupt(nothing_written):
        content = run_audit(data, out, options)
    show(audit_page(out, content))
    say_report(out, "audit.html", gallery=gallery)
    say_next("distill", data, *command_line(*_training(out, content, options)))


def _training(out: Path, content: Audit, options: AuditOptions) -> tuple[AuditOptions, set[str]]:
    """The options of the training that follows, with the better prompts or else templates that the audit found, and
    those that training does not know."""
    from dhox.artefacts.files import BETTER_CLASSES

    trial, besides = content.prompts, {"small_clip", "overwrite", "prompts"}
    if trial is not None and trial.class_list:
        return replace(options, images=replace(options.images, classes=out / BETTER_CLASSES)), besides
    if trial is not None and trial.best_templates:
        teacher = replace(options.teacher, templates=trial.best_templates, template=())
        return replace(options, teacher=teacher), besides
    return options, besides

"""The audit command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import quiet_training_libraries, say_next
from dhox.console import say
from dhox.distill.small_options import AuditOptions
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox audit photos --shots 16",
    "dhox audit photos --small-clip MobileCLIP-S1/datacompdr --templates imagenet",
)


@with_options
def audit(
    data: Annotated[Path, typer.Argument(help="DATA, as for distill.")],
    out: Annotated[Path | None, typer.Option(help="Audit directory.", show_default="audits/NAME-OF-DATA")] = None,
    options: AuditOptions = AuditOptions(),
) -> None:
    """Before training: what the teacher knows of DATA, leaks and odd images, and whether distilling can pay."""
    quiet_training_libraries()
    from dhox.artefacts.audit import Audit
    from dhox.artefacts.files import AUDIT_FILE
    from dhox.artefacts.record import read_record
    from dhox.data.dataset import data_name
    from dhox.distill.auditing.audit import audit as run_audit
    from dhox.reports.html import report_libraries_missing
    from dhox.reports.pages.audit import audit_page, write_audit_page
    from dhox.reports.terminal import show

    result = run_audit(data, out or Path("audits") / data_name(data), options)
    show(audit_page(result.audit, read_record(result.audit / AUDIT_FILE, Audit)))
    missing = report_libraries_missing()
    say(f"Report: {write_audit_page(result.audit)}" if missing is None else f"No audit.html: {missing}")
    shots = options.images.shots
    say_next(f"dhox distill {data}" + (f" --shots {shots}" if shots else ""))

"""Before `dhox distill` trains: whether its student can be exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dhox.console import say

if TYPE_CHECKING:
    from dhox.distill.options import DistillOptions
    from dhox.export.graphs.known_students import Verdict

ExportCheck = Annotated[
    bool | None,
    typer.Option(
        "--export-check/--no-export-check",
        help="Whether a student that is not known to work is exported once before it is trained.",
        show_default="up to 100 M parameters",
    ),
]  # fmt: skip


def export_verdict(options: DistillOptions, asked: bool | None) -> Verdict | None:
    """Whether the student can be exported: known, tried, or not `asked`; None where this machine cannot export at all,
    which is said. A student of the shipped list costs nothing. Raises DhoxError where it cannot be exported."""
    from dhox.distill.students.image_size import own_size
    from dhox.export.graphs.known_students import Verdict, is_known

    student = options.student
    if asked is False:
        return Verdict("not tried (--no-export-check)")
    if is_known(student.student, student.image_size or own_size(student.student)):
        return Verdict("known to work")
    try:
        from dhox.export.trial import try_export
    except ImportError as err:
        say(f"Whether the student can be exported is not tried: {err} (pip install 'dhox[export]').")
        return None
    return try_export(student, two_heads="dho" in options.training.methods, large=bool(asked))

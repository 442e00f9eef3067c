"""Before `dhox distill` trains: whether its student can be exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhox.cli.common import is_first_process
from dhox.console import say

if TYPE_CHECKING:
    from dhox.distill.options import DistillOptions
    from dhox.export.graphs.known_students import Verdict

ExportCheck = Annotated[
    bool | None,
    typer.Option(
        "--export-check/--no-export-check",
        help="Try before the training whether a student can be exported that is not known to.",
        show_default="up to 100 M parameters", rich_help_panel="The student",
    ),
]  # fmt: skip


def check_before_training(out: Path, options: DistillOptions, asked: bool | None) -> None:
    """Raise DhoxError where the student cannot be exported (see `export_verdict`), once per training.

    What is refused at once is refused before: an output that is there, a student that is unknown. A training that is
    resumed was checked when it began; of several processes the first one checks.
    """
    from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, check_output, partial_directory
    from dhox.distill.compare_methods import check_comparison
    from dhox.distill.students.create import check_student

    if not is_first_process() or (options.output.resume and (out.exists() or partial_directory(out).exists())):
        return
    if options.training.compares:
        check_comparison(out, options)
    else:
        check_output(out, RUN_FILE, RUN_SCHEMA, options.output.overwrite)
    check_student(options.student)
    export_verdict(options, asked)


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

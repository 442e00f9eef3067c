"""Stage 1: a teacher, unlabelled images and a few labels to a trained student in a run directory.

    result = dhox.distill("photos", shots=16, student="resnet18")
    result.run, result.summary, result.selection

Options have the names of `dhox distill --help`, with _ for -; `help(dhox.distill.options)` and docs/reference.md list
them. Everything is imported when the stage is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhox.distill.options import DistillOptions
from dhox.options.package import make_callable, options_of

if TYPE_CHECKING:
    from dhox.distill.results.outcome import RunResult


def distill(
    data: str | Path, out: str | Path | None = None, *, recipe: str | Path | None = None, **options: Any
) -> RunResult:
    """Train a student on DATA and write its run directory, by default runs/NAME-OF-DATA.

    `recipe`: a TOML file of options; those given beside it win. One method and one seed: several are compared by
    `dhox.distill.compare_methods.compare`. Raises UsageError for wrong options, DhoxError for what is wrong with DATA.
    """
    given = options_of(DistillOptions, options, recipe)
    from dhox.data.dataset import data_name
    from dhox.distill.run import distill as run_distill
    from dhox.errors import require

    require("torch", "distill")
    return run_distill(Path(data), Path(out) if out is not None else Path("runs") / data_name(Path(data)), given)


make_callable(__name__, distill, DistillOptions)

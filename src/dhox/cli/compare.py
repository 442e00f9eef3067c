"""The compare command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    old: Annotated[Path, typer.Argument(help="Bench directory or bench.json.")],
    new: Annotated[Path, typer.Argument(help="Bench directory or bench.json.")],
    max_slowdown: Annotated[float | None, typer.Option(help="Fail (exit 3) where the median grew by more than this factor and its 95 % interval excludes 1.", metavar="RATIO", show_default="no gate")] = None,
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Fail (exit 3) where accuracy fell by more points than this.", metavar="POINTS", show_default="no gate")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Compare two benches, as on two days or before and after a change; with limits, fail. Needs no torch.

    A ratio over the limit that noise could explain is undecided and does not fail. With a limit, a row of OLD that NEW
    lacks fails, and so does a failed golden check of NEW.
    """
    from dhox.bench.compare import compare as compare_benches
    from dhox.errors import GateFailedError
    from dhox.reports.bench.compare_tables import print_compare

    found = compare_benches(old, new, max_slowdown, max_accuracy_drop)
    print_compare(found, as_json)
    if found.failures:
        raise GateFailedError(
            "; ".join(found.failures) + ".",
            "Keep the old model, raise the limit if this is the price you accept, or measure "
            "what is missing (bench.json of the new bench says why under not_run).",
        )

"""The compare command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dhox.bench.options import CompareOptions
from dhox.cli.common import answer
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox compare bench/monday bench/friday",
    "dhox compare OLD NEW --max-slowdown 1.05 --max-accuracy-drop 0.5",
)


@with_options
def compare(
    old: Annotated[Path, typer.Argument(help="Bench directory or bench.json.")],
    new: Annotated[Path, typer.Argument(help="Bench directory or bench.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limits: CompareOptions = CompareOptions(),
) -> None:
    """Compare two benches, as on two days or before and after a change; with limits, fail. Needs no torch.

    A ratio over the limit that noise could explain is undecided and does not fail. With a limit, a row of OLD that NEW
    lacks fails, and so does a failed golden check of NEW.
    """
    from dhox.bench.compare import compare as compare_benches
    from dhox.errors import GateFailedError
    from dhox.reports.pages.compare import compare_page

    found = compare_benches(old, new, limits.gates.max_slowdown, limits.gates.max_accuracy_drop)
    answer(compare_page(found), asdict(found), as_json)
    if found.failures:
        raise GateFailedError(
            "; ".join(found.failures) + ".",
            "Keep the old model, raise the limit if this is the price you accept, or measure "
            "what is missing (bench.json of the new bench says why under not_run).",
        )

"""The compare command. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dhox.bench.options import CompareOptions
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
    from dhox.reports.terminal import show

    found = compare_benches(old, new, limits.gates.max_slowdown, limits.gates.max_accuracy_drop)
    if as_json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        show(compare_page(found))
    if found.failures:
        raise GateFailedError(
            "; ".join(found.failures) + ".",
            "Keep the old model, raise the limit if this is the price you accept, or measure "
            "what is missing (bench.json of the new bench says why under not_run).",
        )

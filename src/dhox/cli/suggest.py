"""The suggest command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import quiet_training_libraries
from dhox.cli.interrupts import on_interrupt, typed
from dhox.console import say, say_next
from dhox.distill.small_options import SuggestOptions
from dhox.errors import dhox_command, require
from dhox.options.command import examples, with_options

EXAMPLES = examples(
    "dhox suggest photos --classes classes.txt --n 40",
    "dhox suggest photos --classes classes.txt --n 40 --labels labels.csv --label",
    "dhox suggest photos --labels labels.csv --from-export runs/photos/export",
)


@with_options
def suggest(
    data: Annotated[Path, typer.Argument(help="DATA, as for distill.")],
    out: Annotated[Path, typer.Option(help="The manifest to write.")] = Path("suggestions.csv"),
    label: Annotated[bool, typer.Option("--label", help="Open the page of dhox label with them at once.")] = False,
    options: SuggestOptions = SuggestOptions(),
) -> None:
    """Say which unlabelled images to label next, from what the teacher sees in them."""
    from dhox.data.dataset import check_exists

    check_exists(data)
    for module in ("starlette", "uvicorn") if label else ():
        require(module, "serve")
    quiet_training_libraries()
    from dhox.distill.suggesting.suggest import suggest as run_suggest

    with on_interrupt(lambda: f"What was embedded is kept. To run it again: {typed()}"):
        found = run_suggest(data, out, options)
    n, by = len(found.suggestions), options.what.by
    say(f"{n} of {found.n_pile} images without a label, by {by} ({found.n_labelled} have one): {out}")
    if n < options.what.n:
        say(f"--n {options.what.n} is more than there are.")
    guessed = found.guessed
    missing = [label for label in found.classes if label not in guessed]
    say(f"The teacher's first guesses: {', '.join(f'{k} {label}' for label, k in guessed.most_common(12))}.")
    if missing:
        say(f"It guesses none of: {', '.join(missing[:12])}{' ...' if len(missing) > 12 else ''}.")
    table = options.what.labels or Path("labels.csv")
    classes = ["--classes", options.what.classes] if options.what.classes else []
    words = ["label", data, "--suggestions", out, *classes, *(["--out", table] if options.what.labels else [])]
    if label:
        from dhox.labelling.run import label_images

        with on_interrupt(lambda: f"What was answered is kept. To go on: {dhox_command(*words)}"):
            label_images(data, found.suggestions, options.what.classes, table)
        return
    say_next(*words)

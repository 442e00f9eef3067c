"""The commands sweep and contract. Nothing heavy is imported before they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli_common import say_next
from dhox.console import say


def contract(
    model: Annotated[Path, typer.Argument(help="ONNX file of a classifier that dhox did not export.")],
    classes: Annotated[Path | None, typer.Option(help="File with one class name per line, in index order, named as the folders of DATA.", show_default="from the model's metadata, else to be written")] = None,
    out: Annotated[Path | None, typer.Option(help="Contract file.", show_default="MODEL.toml beside it")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the contract file.")] = False,
) -> None:  # fmt: skip
    """Draft the contract by which bench measures a model of your own: what its file tells, and guesses marked as such."""
    from dhox.contract_draft import write_draft

    out = out or model.with_suffix(".toml")
    drafted = write_draft(model, out, classes, overwrite)
    say(f"Contract: {out}")
    if drafted.missing is not None:
        name, count = drafted.missing
        names = "every class name" if count is None else f"{count} class names"
        say(f"Write {out.parent / name}: {names}, one per line, in index order, as the folders of DATA are called.")
    if drafted.guesses:
        say(f"The file does not tell, so these are guesses; check them: {', '.join(drafted.guesses)}.")
    say_next(f"dhox bench --contract {out} {model} --data DATA")

"""The label command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.interrupts import on_interrupt, typed
from dhox.cli.serve import check_token
from dhox.errors import UsageError, not_there, require
from dhox.options.command import examples

EXAMPLES = examples(
    "dhox label photos",
    "dhox label photos --suggestions suggestions.csv --out labels.csv",
    "dhox label photos --classes classes.txt --import monday.csv",
)


def label(
    data: Annotated[Path, typer.Argument(help="The images; those without a label are asked for.", metavar="DATA")],
    suggestions: Annotated[Path | None, typer.Option(help="Which images, in this order, with guesses: what dhox suggest wrote.", metavar="FILE", show_default="every unlabelled image, no guesses")] = None,
    classes: Annotated[Path | None, typer.Option(help="The classes, one a line; the page can add more.", metavar="FILE", show_default="DATA's own, and those of the guesses")] = None,
    out: Annotated[Path, typer.Option(help="A manifest of what was labelled; the log of answers lies beside it (.jsonl).", metavar="FILE")] = Path("labels.csv"),
    take_back: Annotated[Path | None, typer.Option("--import", help="A manifest whose labels are taken into the log first.", metavar="MANIFEST", show_default=False)] = None,
    rename: Annotated[list[str] | None, typer.Option(help="A class of the log has another name now; repeatable.", metavar="OLD=NEW", show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all networks of this machine.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="Who has it may ask.", envvar="DHOX_SERVE_TOKEN", show_default="a new one each time", show_envvar=True)] = None,
) -> None:  # fmt: skip
    """Open a page where a person labels images: guesses as buttons, one key each. Needs no torch.

    Every answer is on disk before the page says so. The same command goes on where it was left.
    """
    from dhox.data.dataset import check_exists

    check_token(token)
    check_exists(data)
    if suggestions is not None and not suggestions.exists():
        raise not_there(suggestions, "Write it with dhox suggest, or leave out --suggestions.", "The suggestions ")
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out} is no name of a .csv file.", "Use labels.csv.")
    renames = tuple(renamed(text) for text in rename or [])
    for module in ("starlette", "uvicorn"):
        require(module, "serve")
    from dhox.artefacts.suggestions import read_suggestions
    from dhox.labelling.run import label_images

    with on_interrupt(lambda: f"What was answered is kept. To go on: {typed()}"):
        label_images(
            data, None if suggestions is None else read_suggestions(suggestions), classes, out, host=host, port=port,
            token=token, take_back=take_back, renames=renames,
        )  # fmt: skip


def renamed(text: str) -> tuple[str, str]:
    """OLD=NEW. Raises UsageError for another text."""
    old, _, new = (part.strip() for part in text.partition("="))
    if not old or not new or old == new:
        raise UsageError(f"--rename {text} names no two classes.", "Write --rename OLD=NEW.")
    return old, new

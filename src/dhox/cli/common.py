"""What the commands share: checks of options, defaults, and the last lines that they print."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dhox.cli.interrupts import on_interrupt
from dhox.console import say
from dhox.errors import DhoxError, UsageError, dhox_command

if TYPE_CHECKING:
    from dhox.reports.sections import Page

Gallery = Annotated[
    int | None,
    typer.Option(
        "--gallery", help="Pictures of each kind on the page, whatever they weigh; 0: none.", metavar="N", min=0,
        show_default="as many as 200 kB hold",
    ),
]  # fmt: skip
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output directory of the same kind.")]


def check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError where an option has a value that it does not know."""
    if value not in allowed:
        raise UsageError(f"{option} {value} is unknown.", f"Use one of: {', '.join(allowed)}.")


def find_newest(file_name: str, schema: str, kind: str, how: str) -> Path:
    """The newest directory of a kind below the working directory, said aloud."""
    from dhox.artefacts.files import newest

    found = newest(Path(), file_name, schema)
    if found is None:
        raise UsageError(f"There is no {kind} below {Path.cwd()}.", f"Make one with `{how}`, or give its path.")
    say(f"Using the newest {kind}: {found}")
    return found


def quiet_training_libraries() -> None:
    """Torch must be there, and its companions' failures come back as exceptions, not as log lines."""
    from dhox.errors import require

    use_no_network_that_is_not_there()
    require("torch", "distill")
    for logger in (None, "huggingface_hub", "timm", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # of channels-last weights, harmless


def use_no_network_that_is_not_there() -> None:
    """Tell the model hub's client where nobody answers for it: it would ask for a minute, and then say less.

    Says nothing behind a proxy, which may know addresses that this machine does not. To be called before the import.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if os.environ.get("HF_HUB_OFFLINE") or getproxies():
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def is_first_process() -> bool:
    """Whether this is the process that writes and prints (torchrun numbers them)."""
    return os.environ.get("RANK", "0") == "0"


def say_report(
    directory: Path,
    name: str = "report.html",
    write: Callable[[Path], Path] | None = None,
    gallery: int | None = None,
) -> None:
    """Write the page of a directory where the report's libraries are installed, by default with `write_report`.
    `gallery`: pictures of each kind.

    Results do not depend on their page: where it cannot be written, that is said, with the command that writes it.
    """
    from dhox.reports.html import report_libraries_missing
    from dhox.reports.pages.run import write_report

    later = dhox_command("report", directory)
    with on_interrupt(lambda: f"{directory} is complete but for its page. To write that: {later}"):
        try:
            missing = report_libraries_missing()
            drawn = write or partial(write_report, gallery=gallery)
            say(f"No {name}: {missing}" if missing else f"Report: {drawn(directory)}")
        except (DhoxError, OSError) as err:
            say(f"No {name}: {err} The results stand without it. To write it later: {later}")


def redraw(run: Path, gallery: int | None = None) -> None:
    """Draw the page of a run again, once there is more to show; nothing where the report's libraries are missing."""
    from dhox.reports.html import report_libraries_missing

    if report_libraries_missing() is None:
        say_report(run, gallery=gallery)


def answer(page: Page, content: Any, as_json: bool) -> None:
    """Show a page, or print what it tells as JSON on standard output."""
    from dhox.reports.terminal import show

    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(page)

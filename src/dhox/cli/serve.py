"""The serve command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import check_choice, find_newest
from dhox.cli.interrupts import on_interrupt, typed
from dhox.console import say
from dhox.errors import UsageError, require
from dhox.options.command import examples

EXAMPLES = examples(
    "dhox serve runs/photos/export",
    "dhox serve runs/photos/export --precision fp32 --precision int8",
    "dhox serve runs/old/export runs/new/export --device cuda --host 0.0.0.0",
)
TOKEN_CHARACTERS = "letters, digits, - and _"


def serve(
    exports: Annotated[list[Path] | None, typer.Argument(help="Export directories, or model files of exports; several stand side by side.", metavar="EXPORT|MODEL", show_default="the newest export below here")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Which models of the exports; repeatable, then side by side.", metavar="fp32|fp16|int8", show_default="the export's choice; fp32 on the CPU")] = None,
    device: Annotated[str, typer.Option(help="tensorrt: the newest engine of each export that fits this machine.", metavar="auto|cpu|cuda|tensorrt")] = "auto",
    top: Annotated[int, typer.Option(help="Classes to show per image.", min=1)] = 3,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all networks of this machine.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="Who has it may ask.", envvar="DHOX_SERVE_TOKEN", show_default="a new one each time", show_envvar=True)] = None,
    max_upload: Annotated[int, typer.Option(help="Largest request body, in MB.", min=1, max=2000, metavar="MB")] = 25,
    queue: Annotated[int, typer.Option(help="Requests that wait at once; others are told to come again.", min=1, max=10000)] = 256,
    trust_engine: Annotated[bool, typer.Option("--trust-engine", help="Load a TensorRT engine that you did not build here. It can run any code.")] = False,
) -> None:  # fmt: skip
    """Open a page that classifies dropped images and the browser's camera, models side by side. Needs no torch.

    Scripts send images to POST /predict; Prometheus reads /metrics.
    """
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA

    check_choice("--device", device, ("auto", "cpu", "cuda", "tensorrt"))
    for name in precision or []:
        check_choice("--precision", name, ("fp32", "fp16", "int8"))
    check_token(token)
    for module in ("starlette", "uvicorn", "python_multipart"):
        require(module, "serve")
    paths = exports or [find_newest(EXPORT_FILE, EXPORT_SCHEMA, "export", "dhox export RUN")]
    _serve(paths, precision or [], device, top, host, port, token, max_upload * 1_000_000, queue, trust_engine)


def _serve(
    paths: list[Path], precisions: list[str], device: str, top: int, host: str, port: int, token: str | None,
    largest: int, queue: int, trust_engine: bool,
) -> None:  # fmt: skip
    """Listen, load, answer."""
    import secrets

    from dhox.serve.app import make_app
    from dhox.serve.guard import own_names
    from dhox.serve.metrics import Metrics
    from dhox.serve.models import asked_models
    from dhox.serve.run import address_of, listen, run_server, say_who_may
    from dhox.serve.work import Work

    metrics, token = Metrics(), token or secrets.token_urlsafe(24)
    with on_interrupt(lambda: f"{metrics.answered} images were answered. To run it again: {typed()}"):
        asked = asked_models(paths, precisions)
        with listen(host, port) as listener:
            work = Work(asked, device, trust_engine, metrics)
            for served in work.models:
                note = f" ({served.entry.note})" if served.entry.note else ""
                say(f"{served.name}: {served.entry.file}, {served.entry.runner}{note}")
            say(f"Open {address_of(listener, host, token)}")
            say_who_may(host)
            app = make_app(
                work, metrics, token=token, names=own_names(host), top=top, largest_upload=largest, queue=queue
            )
            run_server(app, listener)


def check_token(token: str | None) -> None:
    """Raise UsageError where a token could be guessed, or cannot stand in an address."""
    if token is not None and (
        len(token) < 8 or not (token.isascii() and token.replace("-", "").replace("_", "").isalnum())
    ):
        raise UsageError("--token is too short or holds other characters.", f"Use 8 or more {TOKEN_CHARACTERS}.")

"""The command line: options to plain values, results to tables. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

import dhox
from dhox.bench.options import check_host
from dhox.cli import (
    add_class,
    audit,
    bench,
    cache,
    compare,
    distill,
    drift,
    export,
    import_dho,
    label,
    predict,
    retune,
    serve,
    suggest,
    sweep,
)
from dhox.cli.common import Gallery, Overwrite, answer, check_choice
from dhox.cli.interrupts import nothing_written, on_interrupt, typed
from dhox.cli.quiet import with_quiet
from dhox.console import console, say
from dhox.errors import DhoxError, UsageError, error_line
from dhox.options.command import examples

app = typer.Typer(
    name="dhox",
    help="A CLIP teacher, unlabelled images and a few labels -> a small, fast, proven classifier.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        console.print(f"dhox {dhox.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A CLIP teacher, unlabelled images and a few labels -> a small, fast, proven classifier."""


app.command(epilog=audit.EXAMPLES)(with_quiet(audit.audit))
app.command(epilog=suggest.EXAMPLES)(with_quiet(suggest.suggest))
app.command(epilog=distill.EXAMPLES)(with_quiet(distill.distill))
app.command(epilog=cache.EXAMPLES)(with_quiet(cache.cache))
app.command(epilog=retune.EXAMPLES)(with_quiet(retune.retune))
app.command(epilog=add_class.EXAMPLES)(with_quiet(add_class.add_class))
app.command(epilog=import_dho.EXAMPLES)(with_quiet(import_dho.import_dho))
app.command(epilog=export.EXAMPLES)(with_quiet(export.export))
app.command(epilog=sweep.EXAMPLES)(with_quiet(sweep.sweep))
app.command(epilog=bench.EXAMPLES)(with_quiet(bench.bench))
app.command(epilog=predict.EXAMPLES)(with_quiet(predict.predict))
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.command(epilog=drift.EXAMPLES)(with_quiet(drift.drift))
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=label.EXAMPLES)(label.label)


@app.command(epilog=examples("dhox report runs/photos", "dhox report runs/photos/bench/orin-20260101-120000"))
def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run, a bench, an audit, a drift or a sweep.")],
    gallery: Gallery = None,
) -> None:
    """Write the page of a run, a bench, an audit, a drift or a sweep again, for example of one that was brought from a board."""
    from dhox.reports.pages.run import write_report

    say(f"Report: {write_report(directory, gallery=gallery)}")


@app.command(epilog=examples("dhox verify runs/photos/export", "dhox verify runs/photos/export --device cuda"))
@with_quiet
def verify(
    export: Annotated[Path, typer.Argument(help="Export directory.")],
    device: Annotated[str, typer.Option(help="Where the golden images run.", metavar="auto|cpu|cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check on another machine that an export is whole and answers as it did where it was made. Needs no torch."""
    from dhox.errors import GateFailedError
    from dhox.models.verify import verify as run_verify
    from dhox.reports.pages.export import verify_json, verify_page

    check_choice("--device", device, ("auto", "cpu", "cuda"))
    rows = run_verify(export, device)
    answer(verify_page(rows), verify_json(rows), as_json)
    failed = [row for row in rows if row.passed is False]
    if failed:
        raise GateFailedError(
            f"{failed[0].file}, {failed[0].what}: {failed[0].found}", "Copy the directory again, or export again."
        )


@app.command(epilog=examples("dhox doctor", "dhox doctor --host user@orin", "dhox doctor --target orin-nano@jp6.1"))
def doctor(
    host: Annotated[str | None, typer.Option(help="A board, over ssh.", show_default="this machine", metavar="[USER@]HOST")] = None,
    remote_python: Annotated[str | None, typer.Option(help="With --host: the Python to use there.", show_default="python3")] = None,
    target: Annotated[str | None, typer.Option(help="Say what a board can take, before training for it.", metavar="BOARD@jpVERSION", show_default="look at this machine")] = None,
    restore_power_mode: Annotated[bool, typer.Option("--restore-power-mode", help="Set the power mode again that a killed bench --power-modes left behind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Say what this machine can do, why not, and what fixes it; or what a board will be able to do."""
    check_host(host, remote_python)
    if as_json and restore_power_mode:
        raise UsageError(
            "--restore-power-mode sets a mode and lists nothing.", "Leave out --json, or ask for it afterwards."
        )
    if target is not None and restore_power_mode:
        raise UsageError("--target looks at no machine.", "Leave out the other options, or leave out --target.")
    if host is not None and target is not None:
        raise UsageError("--host looks at a board as it is.", "Leave out --target, or leave out --host.")
    if target is not None:
        from dhox.doctor.targets import describe_target
        from dhox.reports.pages.machine import target_page

        facts = describe_target(target)
        answer(target_page(facts), facts, as_json)
    elif host is not None:
        with on_interrupt(nothing_written):
            _doctor_of_board(host, remote_python or "python3", restore_power_mode, as_json)
    elif restore_power_mode:
        from dhox.bench.power_modes import restore_left_over

        with on_interrupt(lambda: f"To run it again: {typed()}"):
            mode = restore_left_over()
        say(f"The power mode is {mode.name} ({mode.id}) again." if mode else "No sweep left a power mode to restore.")
    else:
        from dhox.doctor.examine import examine
        from dhox.reports.pages.machine import doctor_page

        findings = examine()
        answer(doctor_page(findings), msgspec.to_builtins(findings), as_json)


def _doctor_of_board(host: str, python: str, restore_power_mode: bool, as_json: bool) -> None:
    from dhox.doctor.board import examine_board, restore_board
    from dhox.reports.pages.machine import board_page

    if restore_power_mode:
        restore_board(host, python)
        return
    found = examine_board(host, python)
    answer(board_page(found.probe, found.findings, found.note), msgspec.to_builtins(found), as_json)


@app.command(epilog=examples("dhox demo", "dhox demo --shots 4 --out runs/demo-4"))
@with_quiet
def demo(
    data: Annotated[Path, typer.Option(help="Where the images are written.")] = Path("demo-data"),
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    shots: Annotated[int, typer.Option(help="Labelled images per class.", min=1, max=600)] = 16,
    overwrite: Overwrite = False,
) -> None:
    """Run the whole line on embedded data: 10 classes of Fashion-MNIST and a tiny CLIP teacher."""
    from dhox.demo.run import run_demo

    with on_interrupt(lambda: f"What was finished is kept. To run all of it again: {typed('--overwrite')}"):
        run_demo(data, out, shots, overwrite)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: user errors become one message and their exit code; bugs keep their traceback."""
    with one_message():
        app(arguments)


@contextlib.contextmanager
def one_message() -> Iterator[None]:
    """End with one message for a user error; with DHOX_ERRORS=json (on a board) it is a line for another program."""
    try:
        yield
    except DhoxError as err:
        if os.environ.get("DHOX_ERRORS") == "json":
            print(error_line(err), file=sys.stderr)
            sys.exit(err.exit_code)
        from rich.console import Console

        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/bold red] {escape(str(err))}", soft_wrap=True)
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()

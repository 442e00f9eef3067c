"""The commands sweep and contract. Nothing heavy is imported before they run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import Overwrite, check_choice, say_next
from dhox.console import say
from dhox.errors import GateFailedError, StoppedError, UsageError

CANDIDATES = Path(".dhox-candidates")  # hidden: no command takes an untrained student for the newest export


def sweep(
    students: Annotated[str | None, typer.Option(help="Students as distill takes them, separated by commas.", metavar="NAME,NAME,...", show_default="all in --candidates")] = None,
    budget: Annotated[str | None, typer.Option(help="Median latency that the student may have, such as 5ms or 200us.", show_default="none")] = None,
    device: Annotated[str, typer.Option(help="Where to measure; jetson never falls back to the CPU.", metavar="auto|cpu|cuda|tensorrt|jetson")] = "auto",
    host: Annotated[str | None, typer.Option(help="Measure on this board by SSH.", metavar="USER@BOARD", show_default="this machine")] = None,
    runner: Annotated[str | None, typer.Option(help="What runs the models.", show_default="by device", metavar="NAME[:OPTION]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images in pixels; without --students: only candidates of this size.", show_default="each student's own", min=1)] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes; without --students: only candidates with so many.", show_default="10", min=2)] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Measure fp16 files in place of fp32.")] = False,
    batch: Annotated[int, typer.Option(help="Batch size.", min=1)] = 1,
    scope: Annotated[str, typer.Option(help="What lies between the readings of the clock, see bench.", metavar="device|e2e|pipeline")] = "e2e",
    duration: Annotated[float, typer.Option(help="Seconds of timed calls per student, in 40 rounds.", min=0.05, max=3600)] = 4.0,
    energy: Annotated[float, typer.Option(help="Seconds of the window in which the energy of each student is measured, where a sensor can be read; 0: not measured.", min=0.0, max=3600)] = 30.0,
    runs: Annotated[list[Path] | None, typer.Option(help="Folder with finished runs, whose accuracies are joined; repeatable.", show_default="none")] = None,
    candidates: Annotated[Path, typer.Option(help="Exports of untrained students, made once; copy it to a board without torch.")] = CANDIDATES,
    export_only: Annotated[bool, typer.Option("--export-only", help="Fill --candidates and stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Sweep directory.", show_default="sweeps/HOST-TIME")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Measure untrained students, and say which to distill for a latency budget. Needs torch only to export them."""
    from dhox.bench.scopes import SCOPES
    from dhox.bench.sweep.candidates import CLASSES, prepare
    from dhox.bench.sweep.choose import parse_budget
    from dhox.bench.sweep.run import sweep as run_sweep
    from dhox.reports.sweep.tables import print_sweep

    check_choice("--scope", scope, tuple(SCOPES))
    budget_ms = None if budget is None else parse_budget(budget)
    names = list(dict.fromkeys(name.strip() for name in (students or "").split(",") if name.strip()))
    if not names and (export_only or not candidates.is_dir()):
        raise UsageError("No students to sweep.", "Name them: --students resnet18,mobilenetv4_conv_small.")
    if export_only:
        found, failed = prepare(names, candidates, image_size, classes or CLASSES, "fp16" if fp16 else "fp32", say)
        for row in failed:
            say(f"Not exported: {row['student']}: {row['reason']}")
        say(f"{candidates} holds {', '.join(candidate.export.name for candidate in found)}.")
        words = ["dhox", "sweep", "--candidates", str(candidates)]
        words += ["--image-size", str(image_size)] if image_size else []
        words += ["--classes", str(classes)] if classes else []
        say_next(shlex.join([*words, *(["--fp16"] if fp16 else []), "--budget", "5ms"]))
        return
    result = run_sweep(
        names, out, candidates=candidates, image_size=image_size, classes=classes, fp16=fp16, device=device, host=host,
        runner=runner, batch=batch, scope=scope, budget_ms=budget_ms, duration_s=duration, energy_s=energy, runs=runs,
        overwrite=overwrite,
    )  # fmt: skip
    print_sweep(result.sweep, result.content)
    say_page(result.sweep)
    if result.content["status"] == "interrupted":
        raise StoppedError(
            "The sweep was interrupted.", f"{result.sweep} holds what it measured; run it again for the rest."
        )
    choice = result.content["choice"]
    if choice and not choice["distill"]:
        raise GateFailedError(
            choice["words"][0],
            f"Try smaller images (--image-size), {'int8 (dhox export --int8)' if fp16 else '--fp16'}, "
            "smaller students, or a larger budget.",
        )
    sides = {row["student"]: row["image_size"] for row in result.content["rows"] if row["accuracy"] is None}
    untrained = [student for student in (choice["distill"] if choice else []) if student in sides]
    if untrained:
        say_next(f"dhox distill DATA --student {shlex.quote(untrained[0])} --image-size {sides[untrained[0]]}")


def say_page(directory: Path) -> None:
    """Write DIRECTORY/sweep.html where the report's libraries are installed."""
    from dhox.reports.run.page import report_libraries_missing

    missing = report_libraries_missing()
    if missing is not None:
        say(f"No sweep.html: {missing}")
        return
    from dhox.reports.sweep.page import write_sweep_page

    say(f"Report: {write_sweep_page(directory)}")

"""The export command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import Gallery, find_newest, redraw
from dhox.cli.interrupts import nothing_written, on_interrupt
from dhox.console import say, say_next
from dhox.errors import UsageError, dhox_command, require
from dhox.export.options import ExportOptions, TargetOptions, check, check_new, check_present, check_target
from dhox.options.command import examples, with_options
from dhox.options.declare import command_line

EXAMPLES = examples(
    "dhox export runs/photos --fp16",
    "dhox export runs/photos/export --tensorrt --batch 1:8:16",
    "dhox export runs/photos/export --camera 1920x1080 --camera-format nv12",
)


@with_options
def export(
    directory: Annotated[Path | None, typer.Argument(help="Run directory; or export directory, for --tensorrt, --camera and --emit.", metavar="RUN|EXPORT", show_default="the newest run below here")] = None,
    out: Annotated[Path | None, typer.Option(help="Export directory.", show_default="RUN/export")] = None,
    options: ExportOptions = ExportOptions(),
    gallery: Gallery = None,
    target: TargetOptions = TargetOptions(),
) -> None:  # fmt: skip
    """Fold the heads and write ONNX files, proven on real images; TensorRT engines and more from them."""
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, RUN_FILE, RUN_SCHEMA, holds, settle_any
    from dhox.data.dataset import check_exists
    from dhox.reports.terminal import show

    check(options)
    check_target(target)
    directory = directory or find_newest(RUN_FILE, RUN_SCHEMA, "run", "dhox distill DATA")
    settle_any(directory)
    if holds(directory, EXPORT_FILE, EXPORT_SCHEMA):
        check_present(directory, options, target)
        if out is not None:
            raise UsageError(f"{directory} is an export, and --out needs the run.", "Leave it out.")
        if gallery is not None:
            raise UsageError(f"{directory} is an export, and --gallery is for the page of a run.", "Leave it out.")
        place = directory
    else:
        check_new(options, target)
        if options.files.data is not None:
            check_exists(options.files.data)
        if target.engines.tensorrt:
            from dhox.runtimes.tensorrt_api import import_tensorrt

            import_tensorrt()
        require("torch", "export")
        require("onnxscript", "export")
        from dhox.export.run import export as run_export
        from dhox.reports.pages.run import exported_page

        own_place = (directory / "export").resolve()
        if gallery is not None and out is not None and out.resolve() != own_place:
            raise UsageError(f"The page of {directory} shows {own_place} alone.", "Leave out --gallery, or --out.")
        with on_interrupt(nothing_written):
            result = run_export(directory, out or directory / "export", options)
        place = result.export
        show(exported_page(directory, place, result.manifest, result.ledger))
        if place.resolve() == own_place:
            redraw(directory, gallery)
    _serve_targets(place, target, options.files.overwrite)
    say_next("bench", place, "--device", "auto")


def _serve_targets(place: Path, target: TargetOptions, overwrite: bool) -> None:
    """Write what other programs need, and build engines; each appears whole or not at all."""
    from dhox.reports.terminal import show

    cameras = None
    rest = dhox_command("export", place, *command_line(target), "--overwrite")
    with on_interrupt(lambda: f"{place} is whole, and what was finished there. For the rest: {rest}"):
        if target.cameras.camera:
            from dhox.export.camera.run import add_cameras
            from dhox.reports.pages.export import cameras_page

            wanted = target.engines.precision
            cameras = add_cameras(place, target.cameras.cameras, wanted, overwrite)
            show(cameras_page(place, cameras))
        for program in target.integrations.emit:
            from dhox.export.integrations.emit import emit

            say(f"{emit(place, program)}: for {program}")
        if target.engines.tensorrt:
            from dhox.export.engines.engine import build_engines
            from dhox.reports.pages.export import engines_page

            show(engines_page(place, build_engines(place, target.engines, overwrite, cameras)))

"""The export command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli_common import Overwrite, check_choice, find_newest, say_next
from dhox.errors import UsageError


def export(
    run: Annotated[Path | None, typer.Argument(help="Run directory.", show_default="the newest run below here")] = None,
    out: Annotated[Path | None, typer.Option(help="Export directory.", show_default="RUN/export")] = None,
    fold_heads: Annotated[bool, typer.Option("--fold-heads/--keep-heads", help="Fold both heads into one linear layer, or keep them.")] = True,
    fold_rule: Annotated[str, typer.Option(help="linear (C rows), exact (2C rows), or auto: linear where validation shows it is not worse.", metavar="auto|linear|exact")] = "auto",
    fold_tolerance: Annotated[float, typer.Option(help="Points of accuracy that auto may risk (one-sided 95 % bound).", min=0.0)] = 1.0,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write model.fp16.onnx, and make it the default.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Also write model.bf16.onnx.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also write model.int8.onnx, calibrated on unlabelled images, and make it the default. Layers that cost too much accuracy stay fp16.")] = False,
    quantize_head: Annotated[bool, typer.Option("--quantize-head", help="int8 for the last linear layer too.")] = False,
    input_kind: Annotated[str, typer.Option("--input", help="What the graph takes: pixels as decoded, the normalised tensor, or planar pixels from 0 to 255 (DeepStream).", metavar="uint8-nhwc|float-nchw|float-nchw-255")] = "uint8-nhwc",
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Points of validation accuracy that a file may lose to the student in torch; beyond: exit 3.", show_default="report only", min=0.0)] = None,
    reject_coverage: Annotated[float | None, typer.Option(help="Share of validation images to be answered; below that threshold predict says unknown. In (0, 1].", show_default="answer all")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the run's images are now.", show_default="where the run found them")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Fold the heads and write ONNX files, checked against torch on real images."""
    from dhox.errors import require
    from dhox.exported import INPUT_KINDS
    from dhox.files import RUN_FILE, RUN_SCHEMA

    check_choice("--fold-rule", fold_rule, ("auto", "linear", "exact"))
    if not fold_heads and fold_rule != "auto":
        raise UsageError("--keep-heads folds nothing, so --fold-rule has no meaning. Leave one of them out.")
    if quantize_head and not int8:
        raise UsageError("--quantize-head is for --int8. Give both, or leave it out.")
    check_choice("--input", input_kind, INPUT_KINDS)
    run = run or find_newest(RUN_FILE, RUN_SCHEMA, "run", "dhox distill DATA")
    require("torch", "export")
    require("onnxscript", "export")
    from dhox.export.run import export as run_export
    from dhox.tables import print_export

    result = run_export(
        run, out or run / "export", fold_heads=fold_heads, fold_rule=fold_rule, fold_tolerance=fold_tolerance,
        fp16=fp16, bf16=bf16, int8=int8, quantize_head=quantize_head, input_kind=input_kind,
        max_accuracy_drop=max_accuracy_drop, reject_coverage=reject_coverage, data=data, overwrite=overwrite,
    )  # fmt: skip
    print_export(result.export, result.manifest, result.ledger)
    say_next(f"dhox bench {result.export} --device auto")

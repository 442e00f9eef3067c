"""The export command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dhox.cli.common import Overwrite, check_choice, find_newest, say_next
from dhox.console import say
from dhox.errors import UsageError, require

ENGINE_OPTIONS = {
    "precision", "batch", "workspace", "version_compatible", "hardware_compatible", "dla",
}  # fmt: skip


def export(
    context: typer.Context,
    directory: Annotated[Path | None, typer.Argument(help="Run directory; or export directory, for --tensorrt and --emit.", metavar="[RUN|EXPORT]", show_default="the newest run below here")] = None,
    out: Annotated[Path | None, typer.Option(help="Export directory.", show_default="RUN/export")] = None,
    fold_heads: Annotated[bool, typer.Option("--fold-heads/--keep-heads", help="Fold both heads into one linear layer, or keep them.")] = True,
    fold_rule: Annotated[str, typer.Option(help="linear (C rows), exact (2C rows), or auto: linear where validation shows it is not worse.", metavar="auto|linear|exact")] = "auto",
    fold_tolerance: Annotated[float, typer.Option(help="Points of accuracy that auto may risk (one-sided 95 % bound).", min=0.0)] = 1.0,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write model.fp16.onnx, and make it the default.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also write model.int8.onnx, calibrated on unlabelled images, and make it the default. Layers that cost too much accuracy stay fp16.")] = False,
    int8_ranges: Annotated[str, typer.Option(help="With --int8: the largest values seen, or their 99.999 % percentile (where a few values lie far out).", metavar="minmax|percentile")] = "minmax",
    quantize_head: Annotated[bool, typer.Option("--quantize-head", help="int8 for the last linear layer too.")] = False,
    input_kind: Annotated[str, typer.Option("--input", help="What the graph takes: pixels as decoded, the normalised tensor, or planar pixels from 0 to 255 (DeepStream).", metavar="uint8-nhwc|float-nchw|float-nchw-255")] = "uint8-nhwc",
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Points of validation accuracy that a file may lose to the student in torch; beyond: exit 3.", show_default="report only", min=0.0)] = None,
    reject_coverage: Annotated[float | None, typer.Option(help="Share of validation images to be answered; below that threshold predict says unknown. In (0, 1].", show_default="answer all")] = None,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Build TensorRT engines for this machine into EXPORT/engines.")] = False,
    precision: Annotated[list[str] | None, typer.Option(help="With --tensorrt: model to build; repeatable.", show_default="the export's default", metavar="fp32|fp16|int8")] = None,
    batch: Annotated[str, typer.Option(help="With --tensorrt: batch sizes, smallest, usual, largest.", metavar="MIN:OPT:MAX")] = "1:8:16",
    workspace: Annotated[int | None, typer.Option(help="With --tensorrt: memory limit of the builder in MiB, for small boards.", show_default="TensorRT's", min=1)] = None,
    version_compatible: Annotated[bool, typer.Option("--version-compatible", help="With --tensorrt: runs with later TensorRT versions, somewhat slower.")] = False,
    hardware_compatible: Annotated[bool, typer.Option("--hardware-compatible", help="With --tensorrt: runs on other GPUs too, somewhat slower.")] = False,
    dla: Annotated[int | None, typer.Option(help="With --tensorrt: DLA core to build for; layers that it cannot run fall back to the GPU and are listed.", show_default="none", min=0)] = None,
    emit: Annotated[list[str] | None, typer.Option(help="Also write the configuration of a neighbour; repeatable.", show_default="none", metavar="deepstream|triton")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the run's images are now.", show_default="where the run found them")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Fold the heads and write ONNX files, proven on real images; TensorRT engines and neighbours' files from them."""
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, RUN_FILE, RUN_SCHEMA, holds
    from dhox.models.export_directory import PRECISIONS
    from dhox.runtimes.tensors import INPUT_KINDS

    check_choice("--fold-rule", fold_rule, ("auto", "linear", "exact"))
    check_choice("--input", input_kind, INPUT_KINDS)
    for kind in emit or []:
        check_choice("--emit", kind, ("deepstream", "triton"))
    if not fold_heads and fold_rule != "auto":
        raise UsageError("--keep-heads folds nothing, so --fold-rule has no meaning.", "Leave one of them out.")
    check_choice("--int8-ranges", int8_ranges, ("minmax", "percentile"))
    given = {name for name in context.params if is_given(context, name)}
    if not int8 and given & {"quantize_head", "int8_ranges"}:
        raise UsageError(f"{option_names(given & {'quantize_head', 'int8_ranges'})} is for --int8.", "Add it.")
    if not tensorrt and given & ENGINE_OPTIONS:
        raise UsageError(f"{option_names(given & ENGINE_OPTIONS)} only has a meaning with --tensorrt.", "Add it.")

    batches = (1, 1, 1)
    if tensorrt:
        from dhox.export.engines.engine import build_engines, parse_batches

        batches = parse_batches(batch)
    for name in precision or []:
        check_choice("--precision", name, PRECISIONS)

    directory = directory or find_newest(RUN_FILE, RUN_SCHEMA, "run", "dhox distill DATA")
    if holds(directory, EXPORT_FILE, EXPORT_SCHEMA):
        target = directory
        foreign = given - ENGINE_OPTIONS - {"directory", "tensorrt", "emit", "overwrite"}
        if foreign:
            raise UsageError(
                f"{directory} is an export, and an export never changes: {option_names(foreign)} needs the run.",
                "Give the run directory, or only --tensorrt and --emit.",
            )
        if not tensorrt and not emit:
            raise UsageError(f"{directory} is an export already.", "Give --tensorrt or --emit, or the run directory.")
    else:
        written = {"fp32"} | {name for name, asked in (("fp16", fp16), ("int8", int8)) if asked}
        lacking = sorted(set(precision or []) - written)
        if lacking:
            raise UsageError(f"--precision {lacking[0]} is not among the models to be written.", f"Add --{lacking[0]}.")
        if "deepstream" in (emit or []) and input_kind != "float-nchw-255":
            raise UsageError(
                "nvinfer feeds planes from 0 to 255.", "With --emit deepstream, add --input float-nchw-255."
            )
        if tensorrt:
            from dhox.runtimes.tensorrt_api import import_tensorrt

            import_tensorrt()
        require("torch", "export")
        require("onnxscript", "export")
        from dhox.export.run import export as run_export
        from dhox.reports.export.tables import print_export

        result = run_export(
            directory, out or directory / "export", fold_heads=fold_heads, fold_rule=fold_rule,
            fold_tolerance=fold_tolerance, fp16=fp16, int8=int8, int8_ranges=int8_ranges,
            quantize_head=quantize_head, input_kind=input_kind, max_accuracy_drop=max_accuracy_drop, reject_coverage=reject_coverage, data=data,
            overwrite=overwrite,
        )  # fmt: skip
        target = result.export
        print_export(target, result.manifest, result.ledger)
    for kind in emit or []:
        from dhox.export.integrations.emit import emit as run_emit

        say(f"{run_emit(target, kind)}: for {kind}")
    if tensorrt:
        from dhox.reports.export.engine_tables import print_engines

        sidecars = build_engines(
            target, precisions=precision, batches=batches, workspace_mib=workspace,
            version_compatible=version_compatible, hardware_compatible=hardware_compatible, dla=dla,
            overwrite=overwrite,
        )  # fmt: skip
        print_engines(target, sidecars)
    say_next(f"dhox bench {target} --device auto")


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user wrote an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def option_names(names: set[str]) -> str:
    """Parameter names as the options that the user wrote."""
    return ", ".join(sorted("--input" if name == "input_kind" else f"--{name.replace('_', '-')}" for name in names))

"""The command line: options to plain values, results to tables. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import dhox
from dhox.console import console, say
from dhox.errors import DhoxError, UsageError

app = typer.Typer(
    name="dhox",
    help="A CLIP teacher, unlabelled images and a few labels -> a small, fast, proven classifier.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output directory of the same kind.")]


def print_version(asked: bool) -> None:
    """--version."""
    if asked:
        console.print(f"dhox {dhox.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A CLIP teacher, unlabelled images and a few labels -> a small, fast, proven classifier."""


@app.command()
def distill(
    data: Annotated[Path | None, typer.Argument(help="Image folder (train/CLASS/*, unlabelled/**, val/, test/) or .csv/.parquet manifest.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-DATA")] = None,
    teacher: Annotated[str, typer.Option(help="OpenCLIP model: ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.")] = "ViT-B-16/datacomp_xl_s13b_b90k",
    teacher_scale: Annotated[float | None, typer.Option(help="Factor of the teacher's cosines.", show_default="the checkpoint's", min=0.01)] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template with {} for the class name; repeatable.", show_default="open_clip's 7 simple templates")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list: a label, or label,prompt name, per line.", show_default="train's folders")] = None,
    student: Annotated[str, typer.Option(help="Any timm model, or an OpenCLIP image tower: open_clip:ARCHITECTURE/TAG, open_clip:hf-hub:ORG/MODEL, open_clip:local-dir:PATH.")] = "resnet18",
    student_weights: Annotated[str, typer.Option(help="pretrained, none, or a file.", metavar="pretrained|none|PATH")] = "pretrained",
    image_size: Annotated[int | None, typer.Option(help="Student input in pixels.", show_default="the student's", min=8)] = None,
    kd_head: Annotated[str, typer.Option(help="W z + b; 100 (W/|W|)(z/|z|); or 100 (W z/|z| + b) as the authors' code.", metavar="linear|cosine-paper|cosine-code")] = "linear",
    init_heads: Annotated[str, typer.Option(help="text: the class text embeddings of an OpenCLIP student's own text tower.", metavar="random|text")] = "random",
    init_from: Annotated[Path | None, typer.Option(help="Run directory of an earlier student to start from.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="dho: two heads; sho: one head, both losses; ce: labels only; kd: teacher only.", metavar="dho|sho|ce|kd")] = "dho",
    shots: Annotated[int | None, typer.Option(help="Labelled images per class; the rest of train is unlabelled.", show_default="all of train", min=1)] = None,
    label_fraction: Annotated[float | None, typer.Option(help="Labelled share of each class instead of --shots.", min=0.0, max=1.0)] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the unlabelled images.", min=1)] = 30,
    batch_labelled: Annotated[int, typer.Option(help="Labelled images per step.", min=1)] = 64,
    batch_unlabelled: Annotated[int, typer.Option(help="Unlabelled images per step.", min=1)] = 192,
    learning_rate: Annotated[float, typer.Option(help="AdamW's peak learning rate.", min=0.0)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.", min=0.0)] = 0.01,
    views: Annotated[int, typer.Option(help="Augmented views per image that the teacher embeds.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Weights, order and views.", min=0)] = 0,
    split_seed: Annotated[int, typer.Option(help="Which images are labelled.", min=0)] = 0,
    metric: Annotated[str, typer.Option(help="What alpha, beta and the fold's r maximise on validation.", metavar="accuracy|balanced|macro-f1")] = "accuracy",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    precision: Annotated[str | None, typer.Option(help="Lightning Fabric precision.", show_default="bf16-mixed on CUDA, else 32-true")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    skip_bad_images: Annotated[bool, typer.Option("--skip-bad-images", help="Continue without unreadable images.")] = False,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Train a dual-head student (DHO) on few labels, many unlabelled images and a CLIP teacher."""
    from dhox.dataset import WHAT_DATA_MAY_BE

    if data is None:
        raise UsageError(f"dhox distill needs DATA. {WHAT_DATA_MAY_BE} To see the whole line at work: dhox demo")
    if shots is not None and label_fraction is not None:
        raise UsageError("--shots and --label-fraction both choose the labelled images. Give one of them.")
    check_choice("--method", method, ("dho", "sho", "ce", "kd"))
    check_choice("--kd-head", kd_head, ("linear", "cosine-paper", "cosine-code"))
    check_choice("--init-heads", init_heads, ("random", "text"))
    check_choice("--device", device, ("auto", "cpu", "cuda"))
    check_choice("--metric", metric, ("accuracy", "balanced", "macro-f1"))
    if label_fraction == 0:
        raise UsageError("--label-fraction 0 leaves no label. Use --method kd to train without labels.")
    if method == "kd" and (shots is not None or label_fraction is not None):
        raise UsageError("--method kd uses no label. Leave --shots and --label-fraction out.")
    for text in template or []:
        check_template(text)
    out = out or Path("runs") / (data.resolve().name if data.is_dir() else data.stem)
    from dhox.errors import require

    require("torch", "distill")
    for logger in (None, "huggingface_hub", "timm"):  # their failures come back as exceptions
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    from dhox.distill.run import distill as run_distill
    from dhox.tables import print_distill

    result = run_distill(
        data, out, teacher=teacher, teacher_scale=teacher_scale, templates=template, class_file=classes,
        student=student, student_weights=student_weights, image_size=image_size, kd_head=kd_head,
        init_heads=init_heads, init_from=init_from, method=method, shots=shots,
        label_fraction=label_fraction, epochs=epochs, batch_labelled=batch_labelled,
        batch_unlabelled=batch_unlabelled, learning_rate=learning_rate, weight_decay=weight_decay, views=views,
        seed=seed, split_seed=split_seed, metric=metric, device=device, precision=precision,
        workers=default_workers() if workers is None else workers, skip_bad_images=skip_bad_images, overwrite=overwrite,
    )  # fmt: skip
    print_distill(result.run, result.summary, result.selection)
    say_report(result.run)
    say_next(f"dhox export {result.run} --fold-heads --fp16")


@app.command()
def import_dho(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pt) of the authors' code, as huggingface.co/erjui/dho has them.")],
    arch: Annotated[str, typer.Option(help="Its student: ViT-B-16, ViT-L-14, RN50, resnet18, resnet50 or mobilenetv2.")],
    classes: Annotated[str, typer.Option(help="Class names in the order of its training; imagenet-wnid: n01440764 ...", metavar="imagenet|imagenet-wnid|FILE")],
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-FILE")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the CE head at inference.", show_default="0.5 for CLIP students, else 0.4", min=0.0, max=1.0)] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of the KD head at inference.", show_default="0.5", min=0.01)] = None,
    data: Annotated[Path | None, typer.Option(help="DATA whose val split judges the folds at export.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Turn a checkpoint of the DHO authors' code into a run directory for dhox export."""
    from dhox.errors import require

    require("torch", "distill")
    from dhox.distill.import_dho import import_dho as run_import
    from dhox.tables import print_distill

    result = run_import(
        file, out or Path("runs") / file.stem, arch=arch, classes=classes, alpha=alpha, beta=beta, data=data,
        workers=default_workers() if workers is None else workers, overwrite=overwrite,
    )  # fmt: skip
    print_distill(result.run, result.summary, result.selection)
    say_next(f"dhox export {result.run} --fold-rule exact")


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="Run directory.", show_default="the newest run below here")] = None,
    out: Annotated[Path | None, typer.Option(help="Export directory.", show_default="RUN/export")] = None,
    fold_heads: Annotated[bool, typer.Option("--fold-heads/--keep-heads", help="Fold both heads into one linear layer, or keep them.")] = True,
    fold_rule: Annotated[str, typer.Option(help="linear (C rows), exact (2C rows), or auto: linear where validation shows it is not worse.", metavar="auto|linear|exact")] = "auto",
    fold_tolerance: Annotated[float, typer.Option(help="Points of accuracy that auto may risk (one-sided 95 % bound).", min=0.0)] = 1.0,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write model.fp16.onnx, and make it the default.")] = False,
    input_kind: Annotated[str, typer.Option("--input", help="What the graph takes: pixels as decoded, or the normalised tensor.", metavar="uint8-nhwc|float-nchw")] = "uint8-nhwc",
    data: Annotated[Path | None, typer.Option(help="Where the run's images are now.", show_default="where the run found them")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Fold the heads and write ONNX files, checked against torch on real images."""
    from dhox.errors import require
    from dhox.files import RUN_FILE, RUN_SCHEMA

    check_choice("--fold-rule", fold_rule, ("auto", "linear", "exact"))
    if not fold_heads and fold_rule != "auto":
        raise UsageError("--keep-heads folds nothing, so --fold-rule has no meaning. Leave one of them out.")
    check_choice("--input", input_kind, ("uint8-nhwc", "float-nchw"))
    run = run or find_newest(RUN_FILE, RUN_SCHEMA, "run", "dhox distill DATA")
    require("torch", "export")
    require("onnxscript", "export")
    from dhox.export.run import export as run_export
    from dhox.tables import print_export

    result = run_export(
        run, out or run / "export", fold_heads=fold_heads, fold_rule=fold_rule, fold_tolerance=fold_tolerance,
        fp16=fp16, input_kind=input_kind, data=data, overwrite=overwrite,
    )  # fmt: skip
    print_export(result.export, result.manifest, result.ledger)
    say_next(f"dhox bench {result.export} --device auto")


@app.command()
def bench(
    export: Annotated[Path | None, typer.Argument(help="Export directory.", show_default="the newest export below here")] = None,
    device: Annotated[str, typer.Option(help="Where to measure; jetson never falls back to the CPU.", metavar="auto|cpu|cuda|jetson")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Bench directory.", show_default="EXPORT/../bench/HOST-TIME")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size to time; repeatable.", show_default="1 and 8", min=1)] = None,
    seconds: Annotated[float, typer.Option(help="Time per model and batch size.", min=0.1)] = 2.0,
    data: Annotated[Path | None, typer.Option(help="DATA with the test split.", show_default="where the export's run found it")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Measure latency, throughput and accuracy of the very files that ship. Needs no torch."""
    from dhox.bench.run import bench as run_bench
    from dhox.errors import GateFailedError
    from dhox.files import EXPORT_FILE, EXPORT_SCHEMA
    from dhox.tables import print_bench

    check_choice("--device", device, ("auto", "cpu", "cuda", "jetson"))
    export = export or find_newest(EXPORT_FILE, EXPORT_SCHEMA, "export", "dhox export RUN")
    result = run_bench(
        export, out, device=device, batches=tuple(batch or (1, 8)), seconds=seconds, data=data, overwrite=overwrite
    )
    print_bench(result.bench, result.content)
    say_report(result.bench)
    if not result.passed:
        raise GateFailedError(
            f"A model does not give its golden outputs on this machine (see {result.bench}/bench.json). Do not ship it: "
            "compare ONNX Runtime and Pillow versions with the exporting machine, then export again."
        )


@app.command()
def predict(
    export: Annotated[Path, typer.Argument(help="Export directory.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(help="Classes to show per image.", min=1)] = 3,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32 or fp16.", show_default="the export's choice; fp32 on the CPU")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Classify images with an exported model. Needs no torch."""
    from dhox.exported import load
    from dhox.tables import print_predictions

    model = load(export, device, precision)
    print_predictions([str(path) for path in images], model.classes, [model(path)[0] for path in images], top, as_json)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what this machine can run, and why not."""
    from dhox.doctor import examine
    from dhox.tables import print_doctor

    print_doctor(examine(), as_json)


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Where the images are written.")] = Path("demo-data"),
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    shots: Annotated[int, typer.Option(help="Labelled images per class.", min=1, max=600)] = 16,
    overwrite: Overwrite = False,
) -> None:
    """Run the whole line on embedded data: 10 classes of Fashion-MNIST and a tiny CLIP teacher."""
    from dhox.demo.run import run_demo

    run_demo(data, out, shots, overwrite)


def check_template(text: str) -> None:
    """Raise UsageError for a prompt template that cannot take a class name."""
    try:
        fits = text.format("NAME") != text.format("")
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise UsageError(f"--template {text!r}: write {{}} once, where the class name belongs, and no other braces.")


def check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError where an option has a value that it does not know."""
    if value not in allowed:
        raise UsageError(f"{option} {value} is unknown. Use one of: {', '.join(allowed)}.")


def find_newest(file_name: str, schema: str, kind: str, how: str) -> Path:
    """The newest directory of a kind below the working directory, said aloud."""
    from dhox.files import newest

    found = newest(Path(), file_name, schema)
    if found is None:
        raise UsageError(f"There is no {kind} below {Path.cwd()}. Make one with `{how}`, or give its path.")
    say(f"Using the newest {kind}: {found}")
    return found


def default_workers() -> int:
    """Decoding processes: the cores that training leaves, at most 8."""
    import os

    return max(0, min(8, (os.cpu_count() or 1) - 2))


def say_report(directory: Path) -> None:
    """Write DIRECTORY/report.html where the report's libraries are installed."""
    from dhox.report import report_libraries_missing, write_report

    missing: str | None = report_libraries_missing()
    if missing is None:
        say(f"Report: {write_report(directory)}")
    else:
        say(f"No report.html: {missing}")


def say_next(command: str) -> None:
    """The command that follows."""
    console.print(f"Next: [bold]{escape(command)}[/bold]", soft_wrap=True)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: user errors become one message and their exit code; bugs keep their traceback."""
    try:
        app(arguments)
    except DhoxError as err:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/bold red] {escape(str(err))}", soft_wrap=True)
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()

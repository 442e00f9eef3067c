"""The predict command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhox.cli.common import Overwrite, answer
from dhox.cli.interrupts import on_interrupt, typed
from dhox.errors import DhoxError, UsageError
from dhox.options.command import examples

if TYPE_CHECKING:
    from dhox.models.classifier import ExportedModel
    from dhox.predicting.outputs import Outputs
    from dhox.predicting.sources import Source

EXAMPLES = examples(
    "dhox predict runs/photos/export image.jpg photos/ 'more/**/*.png' --csv a.csv",
    "dhox predict runs/photos/export clip.mp4 --every 5 --smooth 10",
    "dhox predict runs/photos/export camera:0 --jsonl answers.jsonl",
)


def predict(
    export: Annotated[Path, typer.Argument(help="Export directory.")],
    sources: Annotated[list[str], typer.Argument(help="Image files, folders, patterns in quotes, .csv, .tsv or .parquet manifests, exports of Label Studio and CVAT, videos, camera:0, rtsp://..., or - for paths on standard input.", metavar="SOURCE...")],
    top: Annotated[int, typer.Option(help="Classes to show per image.", min=1)] = 3,
    device: Annotated[str, typer.Option(help="tensorrt: the newest engine of the export that fits this machine.", metavar="auto|cpu|cuda|tensorrt")] = "auto",
    precision: Annotated[str | None, typer.Option(help="Which model.", metavar="fp32|fp16|int8", show_default="the export's choice; fp32 on the CPU")] = None,
    trust_engine: Annotated[bool, typer.Option("--trust-engine", help="Load a TensorRT engine that you did not build here. It can run any code.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table.", show_default=False)] = None,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", help="Write a JSON object per line.", show_default=False)] = None,
    sort_into: Annotated[Path | None, typer.Option(help="Link the images into a folder per answer.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the files of an interrupted prediction: what they answer is not computed again.")] = False,
    overwrite: Overwrite = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where an image could not be read.")] = False,
    every: Annotated[int, typer.Option(help="Of a video or camera, take every N-th frame.", min=1)] = 1,
    smooth: Annotated[int, typer.Option(help="Answer a frame by the mean probabilities of the last K frames.", min=1, metavar="K")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds that a camera or address may send nothing.", min=0.1)] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once all images are answered.")] = False,
) -> None:  # fmt: skip
    """Classify images, videos and cameras with an exported model. Needs no torch."""
    from dhox.models.classifier import load
    from dhox.predicting.outputs import Outputs
    from dhox.predicting.sources import Reading, find_source
    from dhox.progress import quietly

    if resume and not (csv or jsonl):
        raise UsageError("--resume goes on with a file of answers.", "Name it with --csv or --jsonl.")
    with on_interrupt(lambda: kept(csv, jsonl)), quietly() if as_json else nullcontext():
        model = load(export, device, precision, trust_engine)
        found = [find_source(word, Reading(frozenset(model.classes), every, timeout)) for word in sources]
        if sort_into is not None and any(source.moving for source in found):
            raise UsageError("--sort-into links files, and frames are none.", "Use --csv or --jsonl.")
        outputs = Outputs.begin(
            model, csv, jsonl, sort_into, resume=resume, overwrite=overwrite, top=top, keep_all=as_json
        )
        run(model, found, smooth, outputs, as_json)
    tally = outputs.tally
    if tally.unreadable and (strict or tally.unreadable == tally.images):
        first = tally.first_unreadable[0]
        raise DhoxError(
            f"{tally.unreadable:,} of {tally.images:,} images could not be read, first {first.path} ({first.error}).",
            "Replace or remove them.",
        )


def run(model: ExportedModel, sources: list[Source], smooth: int, outputs: Outputs, as_json: bool) -> None:
    """Answer all sources, and show what that came to; after Ctrl-C, which ends a camera in order, what there is."""
    from dhox.predicting.answers import answers
    from dhox.predicting.outputs import FEW
    from dhox.progress import progress_bar, quietly
    from dhox.reports.pages.predictions import prediction_page

    counts = [source.count for source in sources]
    total = None if None in counts else sum(filter(None, counts))
    few = total is not None and total <= FEW
    stopped = None
    try:
        with quietly() if few else nullcontext(), progress_bar("Predicting", total, outputs.tally.images) as advance:
            for batch in answers(model, sources, smooth, outputs.is_answered):
                advance(len(batch), outputs.add(batch))
    except KeyboardInterrupt as err:
        stopped = err
    left = [line for source in sources for line in source.leftovers.lines()] + model.notes
    answer(prediction_page(outputs.rows, outputs.tally, left), outputs.plain(), as_json)
    if stopped is not None and not all(source.feed for source in sources):
        raise stopped


def kept(csv: Path | None, jsonl: Path | None) -> str:
    """What an interrupted prediction leaves, and how it goes on."""
    files = " and ".join(str(path) for path in (csv, jsonl) if path is not None and path.exists())
    if not files:
        return f"Nothing was written. To run it again: {typed()}"
    return f"{files} holds what was answered; continue with: {typed('--resume')}"

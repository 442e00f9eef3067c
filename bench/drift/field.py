"""The field's answers: of images that the export answers now, or of files that `dhox predict` wrote on a board."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dhox.artefacts.common import Accuracy
from dhox.bench.drift.options import DriftHow
from dhox.bench.drift.sample import FEWEST_IMAGES, Answers, answers_of
from dhox.errors import DhoxError, UsageError
from dhox.models.classifier import ExportedModel, load
from dhox.models.export_directory import Export
from dhox.predicting.ahead import batches
from dhox.predicting.answer_files import AnswerFile
from dhox.predicting.answers import none_skipped
from dhox.predicting.picture import Prediction
from dhox.predicting.rows import COLUMNS, Row, row_of
from dhox.predicting.sources import Reading, Source, find_source
from dhox.predicting.tally import Tally
from dhox.progress import progress_bar
from dhox.runtimes.predict import BATCH
from dhox.system.regular_file import regular


@dataclass(frozen=True, eq=False)
class Field:
    """`rows`: of images that have an answer; `answers`: the same as arrays. `tally`: counts of all of them, also of
    those that could not be read. `model`: what answered. `notes`: what the images are, in sentences. `embeddings`:
    float [N, D] of the rows, where the export gives them and there were pixels."""

    rows: list[Row]
    answers: Answers
    tally: Tally
    model: str
    of_answers: bool
    notes: list[str] = field(default_factory=list)
    embeddings: np.ndarray | None = None

    @property
    def labelled(self) -> Accuracy | None:
        """Accuracy on the images whose label is known."""
        return self.tally.accuracy


def read_field(export: Export, words: list[str], how: DriftHow) -> Field:
    """The answers of all that `words` name.

    Raises UsageError for a mixture of images and answers, and for cameras; DhoxError for answers of another model or
    with other classes, and where fewer than FEWEST_IMAGES have an answer.
    """
    files = [answer_file(word) for word in words]
    known = [file for file in files if file is not None]
    if known and len(known) < len(words):
        image = words[files.index(None)]
        raise UsageError(f"{known[0].path} holds answers, and {image} images.", "Give either, one after the other.")
    tally, rows, notes = Tally(frozenset(export.manifest.names)), list[Row](), list[str]()
    models, embedded = dict[str, None](), list[np.ndarray]()
    if known:
        parts = checked_answers(export, known)
    else:
        model = load(export.path, how.device, how.precision)
        parts = answered_images(model, words, how.every, notes, embedded)
    for part in parts:
        tally.add(part)
        rows += [row for row in part if row.top]
        models.update(dict.fromkeys(row.model for row in part))
    if len(rows) < FEWEST_IMAGES:
        raise too_few(tally, len(rows))
    if any(row.frame is not None for row in rows):
        notes.append(
            "Frames: neighbouring frames are alike, and tests and intervals take every image for a new one. Take fewer "
            "with --every, or more recordings."
        )
    return Field(
        rows, answers_of(rows, export.manifest.names), tally, ", ".join(models), bool(known), notes,
        np.concatenate(embedded) if embedded else None,
    )  # fmt: skip


def too_few(tally: Tally, n: int) -> DhoxError:
    """The error for fewer images with an answer than tell anything."""
    unread = ""
    if tally.unreadable:
        first = tally.first_unreadable[0]
        unread = f" ({tally.unreadable:,} could not be read, first {first.path}: {first.error})"
    return DhoxError(
        f"{n} field images have an answer{unread}, and fewer than {FEWEST_IMAGES} tell nothing of accuracy.",
        "Give more images; a few hundred narrow the interval to some points.",
    )


def answer_file(word: str) -> AnswerFile | None:
    """The file of `dhox predict` that a word names, None where it names images. Raises DhoxError for an unreadable
    file."""
    path = Path(word)
    if path.suffix.lower() == ".jsonl" and path.is_file():
        return AnswerFile(path, "jsonl")
    if path.suffix.lower() != ".csv" or not path.is_file():
        return None
    try:
        with regular(path).open(encoding="utf-8", newline="") as file:
            first = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return None  # a manifest, whose reader says what is wrong
    return AnswerFile(path, "csv") if first == COLUMNS else None


def checked_answers(export: Export, files: list[AnswerFile]) -> Iterator[list[Row]]:
    """The rows of each file, as they are. Raises DhoxError for those of another model."""
    known = {entry.sha256[:12] for entry in export.manifest.artefacts}
    for file in files:
        rows = [*file.rows("Give what dhox predict --jsonl or --csv wrote.")]
        foreign = next((row.model for row in rows if not known & {*row.model.split(" ")[1:2]}), None)
        if foreign is not None:
            models = ", ".join(f"{entry.file} {entry.sha256[:12]}" for entry in export.manifest.artefacts)
            raise DhoxError(
                f"{file.path} holds answers of {foreign}, and {export.path} holds {models}.",
                "Give the export that the board runs, or answers of this one.",
            )
        yield rows


def answered_images(
    model: ExportedModel, words: list[str], every: int, notes: list[str], embedded: list[np.ndarray]
) -> Iterator[list[Row]]:
    """The export's answers to the images of all sources, batch by batch. Fills `notes` with what was no image, and
    `embedded` with the embeddings of the answered images, where the export gives them."""
    sources = recorded(words, Reading(frozenset(model.classes), every))
    counts = [source.count for source in sources]
    total = None if None in counts else sum(filter(None, counts))
    with progress_bar("Answering field images", total) as advance:
        for batch in batches(sources, model.preprocessing, BATCH, none_skipped):
            pixels = [one.pixels for one in batch if one.pixels is not None]
            found: Iterator[np.ndarray] = iter(())
            if pixels:
                probs, embeddings = model.probs_and_embeddings(np.stack(pixels))
                found = iter(probs)
                embedded += [] if embeddings is None else [embeddings]
            answered = [
                Prediction(one.picture, None if one.pixels is None else next(found), one.error) for one in batch
            ]
            advance(len(batch))
            yield [row_of(one, model.classes, model.reject_threshold, 1, model.file_id) for one in answered]
    notes += [line for source in sources for line in source.leftovers.lines()]


def recorded(words: list[str], reading: Reading) -> list[Source]:
    """What the words name. Raises UsageError for a camera or stream, which has no end."""
    sources = [find_source(word, reading) for word in words]
    live = next((source.name for source in sources if source.feed is not None), None)
    if live is not None:
        raise UsageError(f"{live} has no end.", "Keep its answers with dhox predict --jsonl, and give that file.")
    return sources

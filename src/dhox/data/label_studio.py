"""DATA as Label Studio exports it: JSON, JSON-MIN, CSV and TSV of a project with one question of choices."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from dhox.data.annotated import Annotated, annotated_splits
from dhox.data.images import SUFFIXES
from dhox.data.items import SPLITS, Splits, shorten
from dhox.data.leftovers import Leftovers
from dhox.data.manifest import COLUMNS, csv_rows
from dhox.data.whereabouts import paths_meant
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

# What every row of JSON-MIN and CSV holds beside the task's own data and the answers.
ROW = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time")
OWN = {*ROW, "id", "agreement", "history"}
ANSWERS = ("choice", "choices", *COLUMNS["label"])  # what a question is called where data stands beside it
REGION = {"x", "y", "points", "rle", "start"}  # keys of an answer about a part of the image
Answered = tuple[dict[str, Any], set[str]]  # the data of a task, and the classes that were named
LONGEST_HEADER = 65536  # characters of a table's first line that are looked at
EXPORT = "Export the project from Label Studio as JSON."


class Result(msgspec.Struct):
    """An answer to one question."""

    type: str = ""
    from_name: str = ""
    value: dict[str, Any] = {}


class Annotation(msgspec.Struct):
    """What one person said of a task."""

    result: list[Result] | None = None
    was_cancelled: bool | None = False
    skipped: bool | None = False
    ground_truth: bool | None = False


class Task(msgspec.Struct):
    """An image and what people said of it; predictions of models and drafts are not read."""

    data: dict[str, Any]
    id: int | str = ""
    annotations: list[Annotation] | None = None
    completions: list[Annotation] | None = None  # what versions below 1.0 call them

    @property
    def counting(self) -> list[Annotation]:
        """The annotations that count: those that were not skipped, and of them the ground truth where one is."""
        made = [one for one in self.annotations or self.completions or [] if not (one.was_cancelled or one.skipped)]
        return [one for one in made if one.ground_truth] or made


def is_label_studio(data: Path) -> bool:
    """Whether DATA is a JSON file, or a table with Label Studio's columns."""
    suffix = data.suffix.lower()
    if suffix == ".json":
        return not data.is_dir()
    if suffix not in {".csv", ".tsv"} or not data.is_file():
        return False
    try:
        with data.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(LONGEST_HEADER)
        return set(ROW) <= set(next(csv.reader([header], delimiter="\t" if "\t" in header else ","), []))
    except (OSError, csv.Error):
        return False  # the reader of manifests says why


def read_label_studio(file: Path, wanted: tuple[str, ...] = SPLITS, leftovers: Leftovers | None = None) -> Splits:
    """Read the choices of all images. An image's split and group are those of its data, where it has them.

    Raises DhoxError for a file of another kind, several questions, and what `annotated_splits` refuses.
    """
    if file.suffix.lower() == ".json":
        rows = read_json(file)
        whole = bool(rows) and all(isinstance(row.get("data"), dict) for row in rows)
        answers = from_tasks(file, rows) if whole else from_rows(file, rows)
    else:
        answers = from_rows(file, [row for _, row in csv_rows(file)])
    return annotated_splits(file, merged(file, answers), wanted, leftovers)


def read_json(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file: of a list, or a single one."""
    try:
        rows = msgspec.json.decode(regular(file).read_bytes(), type=list[dict[str, Any]] | dict[str, Any])
    except (OSError, msgspec.DecodeError) as err:
        raise DhoxError(f"{file} is no export of Label Studio ({err}).", EXPORT) from err
    return rows if isinstance(rows, list) else [rows]


def from_tasks(file: Path, rows: list[dict[str, Any]]) -> list[Answered]:
    """(data, choices) of every task of the format JSON."""
    try:
        tasks = msgspec.convert(rows, list[Task])
    except msgspec.ValidationError as err:
        raise DhoxError(f"{file} is no export of Label Studio ({err}).", EXPORT) from err
    results = [(task, result) for task in tasks for one in task.counting for result in one.result or []]
    questions = sorted({result.from_name for _, result in results if result.type == "choices"})
    if len(questions) > 1:
        raise DhoxError(
            f"{file} answers several questions: {shorten(questions)}.", "Keep the results of one `from_name` in it."
        )
    if results and not questions:
        kinds = shorten([f"{n} {kind}" for kind, n in Counter(result.type for _, result in results).most_common()])
        raise DhoxError(f"{file} has no choices, only {kinds}.", "A classifier needs a choice for each image.")
    chosen = [(task, result) for task, result in results if result.type == "choices"]
    if parts := [task.id for task, result in chosen if REGION & set(result.value)]:
        raise DhoxError(
            f"{file}: task {parts[0]} has a choice for a region, not for the image.", "Ask for one of the whole image."
        )
    named: dict[int, set[str]] = {id(task): set() for task in tasks}
    for task, result in chosen:
        named[id(task)] |= choices(file, result.value)
    return [(task.data, named[id(task)]) for task in tasks]


def from_rows(file: Path, rows: list[dict[str, Any]]) -> list[Answered]:
    """(data, choices) of every row of JSON-MIN or CSV: one for each annotation, or for a task without any."""
    if not rows or not all("annotation_id" in row for row in rows):
        raise DhoxError(f"{file} is no export of Label Studio that is read here.", EXPORT)
    about = {image_field(file, rows), *COLUMNS["split"], *COLUMNS["group"]}
    fields = sorted({key for row in rows for key in row} - OWN - about)
    questions = fields if len(fields) == 1 else [key for key in fields if key in ANSWERS]
    if len(questions) > 1 or (fields and not questions):
        raise DhoxError(
            f"{file} does not say which of these is the choice: {shorten(questions or fields)}.",
            "The format JSON does: export that.",
        )
    answers = [row.get(questions[0]) if questions else None for row in rows]
    data = [{key: value for key, value in row.items() if key in about} for row in rows]
    return [(texts, choices(file, answer)) for texts, answer in zip(data, answers, strict=True)]


def choices(file: Path, answer: Any) -> set[str]:
    """The classes of an answer: a text, {"choices": [...]}, a list of these, or one of these as JSON in a cell."""
    if isinstance(answer, str) and answer[:1] in {"{", "["}:
        try:
            answer = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            return {answer}
    if answer is None or answer == "":
        return set()
    if isinstance(answer, str):
        return {answer}
    if isinstance(answer, dict) and isinstance(answer.get("choices"), list):
        return choices(file, answer["choices"])
    if isinstance(answer, list):
        return set().union(*(choices(file, one) for one in answer))
    raise DhoxError(f"{file} has an answer that is no choice: {str(answer)[:60]}.", EXPORT)


def merged(file: Path, answers: list[Answered]) -> list[Annotated]:
    """An entry for each image, with all that was said of it."""
    image = image_field(file, [data for data, _ in answers])
    found: dict[str, Annotated] = {}
    for data, named in answers:
        reference = str(data.get(image) or "")
        if not reference:
            raise DhoxError(f"{file}: a task has no {image}.", "Remove it from the file.")
        split, group = (text_of(data, COLUMNS[name]) for name in ("split", "group"))
        one = found.setdefault(reference, Annotated(reference, split=split or "train", group=group))
        one.choices |= named
    return list(found.values())


def text_of(data: dict[str, Any], names: Iterable[str]) -> str | None:
    """The value of the first of these fields that a task has."""
    return next((str(data[name]) for name in names if data.get(name)), None)


def image_field(file: Path, rows: list[dict[str, Any]]) -> str:
    """The field of the tasks' data that holds images: the only one, or the one called image."""
    fields = Counter(key for row in rows for key, value in row.items() if key not in OWN and is_image(value))
    if not fields:
        raise DhoxError(f"{file} names no image.", "Export a project of images.")
    if len(fields) > 1 and "image" not in fields:
        raise DhoxError(f"{file} has several images in a task: {shorten(sorted(fields))}.", "Call one of them image.")
    return "image" if "image" in fields else next(iter(fields))


def is_image(value: object) -> bool:
    """Whether a value names an image: by the suffix of one of the paths that it may mean."""
    return isinstance(value, str) and any(path[path.rfind(".") :].lower() in SUFFIXES for path in paths_meant(value))

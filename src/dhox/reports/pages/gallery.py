"""Pictures of what a model answered: its mistakes, its doubts, what it would leave unknown, and every class."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from dhox.artefacts.common import Accuracy
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Fold, Reject
from dhox.errors import DhoxError
from dhox.evidence.statistics import MOST_CONFUSION_CLASSES, confusion_matrix
from dhox.export.folding.reject import reject_threshold
from dhox.reports.album import Album, Wanted
from dhox.reports.judged import Judged
from dhox.reports.sections import Cell, Column, Picture, Section, Table
from dhox.reports.text import percent, share

FIRST, OF_REJECTED, OF_CLASS, OF_CELL = 16, 8, 2, 3  # pictures of each kind where nobody asks for another number
MOST_CLASSES = 40  # that are shown, the weakest first
MOST_PAIRS = 12  # of classes that are mixed up, where they are too many for a matrix
OFFERED = 0.9  # share of images to be answered, of the threshold that a page tries where the export has none
ROWS_AND_COLUMNS = "Rows: true class; columns: predicted."


@dataclass(frozen=True)
class Threshold:
    """A reject threshold. `asked`: the share of validation images to be answered; `shipped`: the export has it."""

    value: float
    asked: float
    shipped: bool


@dataclass(frozen=True)
class Gallery:
    """What a page shows pictures of. `most`: of each kind, None for the usual numbers."""

    judged: Judged
    album: Album
    most: int | None = None
    threshold: Threshold | None = None

    def pictures(self, images: list[int]) -> tuple[Picture, ...]:
        """Images by their numbers."""
        return self.album.pictures(self._wanted(image) for image in images)

    def count(self, usual: int) -> int:
        """How many pictures of a kind."""
        return usual if self.most is None else self.most

    def _wanted(self, image: int) -> Wanted:
        """What is said of an image: what was answered, how surely, and what it is."""
        judged = self.judged
        label, answer = judged.classes[judged.labels[image]], judged.classes[judged.answers[image]]
        told = f"{answer}, {share(float(judged.sure[image]))}\N{NO-BREAK SPACE}%"
        if label == answer:
            return Wanted(judged.names[image], told)
        return Wanted(judged.names[image], f"{told}\nis: {label}", "bad")


def threshold_of(reject: Reject | None, val: Logits | None, fold: Fold) -> Threshold | None:
    """The threshold of an export, else one that validation would give; None where that is too small."""
    if reject is not None:
        return Threshold(reject.threshold, reject.asked, True)
    if val is None:
        return None
    try:
        return Threshold(reject_threshold(val, fold, OFFERED).threshold, OFFERED, False)
    except DhoxError:
        return None


def gallery_sections(gallery: Gallery) -> tuple[Section, ...]:
    """All pictures, in the order of the page, which is also the order in which they get the bytes that it may embed."""
    drawn = (
        _mistakes_section(gallery), _doubts_section(gallery), _reject_section(gallery), _classes_section(gallery),
        _confusion_section(gallery),
    )  # fmt: skip
    return note_section(gallery.album), *drawn


def note_section(album: Album) -> Section:
    """What is not shown, and why."""
    note = album.note()
    return Section(notes=(note,) if note else (), where="page")


def _mistakes_section(gallery: Gallery) -> Section:
    judged = gallery.judged
    pictures = gallery.pictures(judged.surest(~judged.right, gallery.count(FIRST)))
    n, of = int((~judged.right).sum()), f"{len(judged.names):,} {judged.split} images"
    told = f"{len(pictures)} of {n:,} mistakes on {of}, the surest first; answered by {judged.by}."
    return Section("Most confident mistakes", (told,), pictures=pictures, where="page") if pictures else Section()


def _doubts_section(gallery: Gallery) -> Section:
    judged = gallery.judged
    pictures = gallery.pictures(judged.least_sure(judged.right, gallery.count(FIRST)))
    told = f"{len(pictures)} of {int(judged.right.sum()):,} right answers, the least sure first."
    return Section("Least confident right answers", (told,), pictures=pictures, where="page") if pictures else Section()


def _reject_section(gallery: Gallery) -> Section:
    """What the threshold leaves unknown: mistakes that it avoids, and right answers that it costs."""
    judged, threshold, most = gallery.judged, gallery.threshold, gallery.count(OF_REJECTED)
    if threshold is None or not len(judged.names):
        return Section()
    unknown = judged.sure < threshold.value
    avoided = gallery.pictures(judged.least_sure(unknown & ~judged.right, most))
    lost = gallery.pictures(judged.surest(unknown & judged.right, most))
    parts = (
        Section("Wrong, and left unknown", pictures=avoided),
        Section("Right, and left unknown", pictures=lost),
    )
    told = _reject_sentence(judged, threshold, unknown)
    return Section("What the reject threshold answers", (told,), parts=parts, where="page")


def _reject_sentence(judged: Judged, threshold: Threshold, unknown: np.ndarray) -> str:
    n, left = len(unknown), int(unknown.sum())
    wrong = int((unknown & ~judged.right).sum())
    option = f"--reject-coverage {threshold.asked:g}"
    first = (
        f"Below {threshold.value:.3f} the export answers unknown ({option})"
        if threshold.shipped
        else f"No threshold is set. With {option} the answer would be unknown below {threshold.value:.3f}"
    )
    answered = Accuracy.of(judged.right[~unknown])
    of_rest = f"{percent(answered)} of them right (all: {share(judged.accuracy.accuracy)} %)" if answered.n else "none"
    chosen = "the threshold is validation's" if judged.split == "test" else "the images that chose it"
    return (
        f"{first}: {n - left:,} of {n:,} {judged.split} images are answered, {of_rest}; {left:,} are unknown, of which "
        f"{wrong:,} would have been wrong ({chosen})."
    )


def _classes_section(gallery: Gallery) -> Section:
    """Examples of every class, the weakest first: the surest right answer, and the surest mistakes."""
    judged = gallery.judged
    images, right = _counts(judged.labels, judged), _counts(judged.labels[judged.right], judged)
    present = [number for number in range(len(judged.classes)) if images[number]]
    weakest = sorted(present, key=lambda number: right[number] / images[number])[:MOST_CLASSES]
    examples = {number: _examples(gallery, number) for number in weakest}
    gallery.pictures(in_turn([*examples.values()]))
    parts = [
        Section(
            f"{judged.classes[number]}: {share(right[number] / images[number])} % of {images[number]:,}",
            pictures=gallery.pictures(found),
        )
        for number, found in examples.items()
    ]
    more = f", {len(weakest)} of {len(present)}" if len(present) > len(weakest) else ""
    intro = (f"Recall on {judged.split} images, the weakest class first{more}. The surest answers, right and wrong.",)
    if not any(part.pictures for part in parts):
        return Section()
    return Section("Examples of every class", intro, parts=tuple(parts), cards=True, where="page")


def _examples(gallery: Gallery, number: int) -> list[int]:
    """Images of one class: the surest right answers, then the surest mistakes."""
    judged, most = gallery.judged, gallery.count(OF_CLASS)
    of_class = judged.labels == number
    wrong = judged.surest(of_class & ~judged.right, most)
    right = judged.surest(of_class & judged.right, 1 + most - len(wrong) if gallery.most is None else most)
    return [*right, *wrong]


def in_turn(lists: list[list[int]]) -> list[int]:
    """The first of each list, then the second of each: where not all can be shown, each has some."""
    return [one for turn in zip_longest(*lists) for one in turn if one is not None]


def _counts(labels: np.ndarray, judged: Judged) -> list[int]:
    counted: list[int] = np.bincount(labels, minlength=len(judged.classes)).tolist()
    return counted


def _confusion_section(gallery: Gallery) -> Section:
    """The confusion matrix, whose cells open their images; the commonest mistakes where the classes are too many."""
    judged, classes = gallery.judged, gallery.judged.classes
    if not len(judged.names):
        return Section()
    matrix = confusion_matrix(judged.labels, judged.answers, len(classes))
    places = [(i, j) for i, j in np.argwhere(matrix).tolist() if i != j]
    places.sort(key=lambda place: -matrix[place])
    small, parts = len(classes) <= MOST_CONFUSION_CLASSES, []
    places = [*places, *((i, i) for i in range(len(classes)))] if small else places[:MOST_PAIRS]
    found = {
        (i, j): judged.surest((judged.labels == i) & (judged.answers == j), gallery.count(OF_CELL)) for i, j in places
    }
    gallery.pictures(in_turn([*found.values()]))
    for (i, j), images in found.items():
        if shown := gallery.pictures(images):
            what = f"{classes[i]}, answered rightly" if i == j else f"{classes[i]} taken for {classes[j]}"
            title = f"{what}: {matrix[i, j]} images"
            parts.append(Section(title, pictures=shown, anchor=f"cell-{i}-{j}" if small else ""))
    intro = (f"{judged.split.capitalize()} images through {judged.by}.",)
    if not small:
        told = intro if parts else ()
        return Section("Commonest mistakes", told, parts=tuple(parts), cards=True, where="page")
    caption = f"{ROWS_AND_COLUMNS} A number that is underlined opens its images." if parts else ROWS_AND_COLUMNS
    table = confusion_table(matrix, classes, frozenset(part.anchor for part in parts), caption)
    return Section("Confusion matrix", intro, (table,), parts=tuple(parts), anchor="confusion", where="page")


def confusion_table(
    matrix: np.ndarray, classes: list[str], anchors: frozenset[str] = frozenset(), caption: str = ROWS_AND_COLUMNS
) -> Table:
    """A confusion matrix [true, predicted] with shades by the share of the true class; `anchors`: of the cells that
    open their images."""
    shades = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    lines = [
        (
            Cell(name),
            *(
                Cell(
                    str(n), "strong" if i == j else "", shade=float(shades[i, j]),
                    opens=anchor if (anchor := f"cell-{i}-{j}") in anchors else "",
                )
                for j, n in enumerate(counts)
            ),
        )
        for i, (name, counts) in enumerate(zip(classes, matrix.tolist(), strict=True))
    ]  # fmt: skip
    columns = (Column("", "name"), *(Column(name, "name") for name in classes))
    return Table(columns, tuple(lines), caption, heat=True)

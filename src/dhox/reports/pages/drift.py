"""A drift report as sections: the estimate first, then what shifted, with pictures."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.drift import BINS, ClassShift, Drift, FieldImage, Method, ShiftTest
from dhox.artefacts.files import DRIFT_FILE
from dhox.artefacts.record import read_record
from dhox.data.items import Item
from dhox.reports.album import MOST_BYTES, Album, Wanted
from dhox.reports.charts import SMALL, svg
from dhox.reports.html import write_page
from dhox.reports.sections import Chart, KeyNumber, Page, Picture, Section, Verdict, cells, table
from dhox.reports.text import named, percent, share, versions

MOST_CLASSES = 30  # of a chart or table, those whose share changed most
WORDS = {"confidence": "top probabilities", "classes": "predicted classes", "unlike": "images unlike any seen"}


def write_drift_page(folder: Path, most: int | None = None) -> Path:
    """Write FOLDER/drift.html from FOLDER/drift.json; pictures come from where the field images still are.

    `most`: pictures of each kind, whatever they weigh; None: as many as the page may embed.
    """
    found = read_record(folder / DRIFT_FILE, Drift)
    return write_page(folder / "drift.html", drift_page(folder, found, Pictures(found, most)))


class Pictures:
    """The field images of a page, named from the folder that holds all of them. `most`: of each kind, None for as many
    as are kept."""

    def __init__(self, found: Drift, most: int | None) -> None:
        images = [*found.least_confident, *found.examples, *(found.unlike.images if found.unlike else [])]
        paths = [image.path for image in images if image.frame is None]
        above = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
        self.names = {path: os.path.relpath(path, above or None) if above else path for path in paths}
        gone = "" if paths or not images else "the images are frames of videos"
        if most == 0:
            gone = "--gallery 0 asked for none"
        elif paths and not any(Path(path).exists() for path in paths):
            gone = "the images are not on this machine"
        items = {} if gone else {name: Item(path, name) for path, name in self.names.items()}
        self.most, self.album = most, Album(items, gone, limit=MOST_BYTES if most is None else None)

    def of(self, images: list[FieldImage]) -> tuple[Picture, ...]:
        """Thumbnails with the answer below them."""
        shown = [image for image in images if image.frame is None][: self.most] if self.album.items else []
        return self.album.pictures(Wanted(self.names[image.path], caption(image)) for image in shown)


def caption(image: FieldImage) -> str:
    """What was answered, how surely, and how like it is to what is known."""
    told = f"{image.predicted}, {share(image.confidence)}\N{NO-BREAK SPACE}%"
    return told if image.similarity is None else f"{told}\ncosine {image.similarity:.2f}"


def drift_page(folder: Path, found: Drift, pictures: Pictures | None = None) -> Page:
    """The whole report; without `pictures` it is for the terminal."""
    what, export = "answers" if found.of_answers else "images", Path(found.export)
    subtitle = (
        f"{found.n:,} field {what} of {named(found.images)} against {found.n_reference:,} validation images of "
        f"{export.parent.name}/{export.name}, {found.model}"
    )
    sections = (
        Section(notes=tuple(told(found)), marked=True),
        Section("What shifted", charts=(confidence_chart(found), class_chart(found)), tables=test_table(found)),
        *(picture_sections(found, pictures) if pictures else ()),
        class_section(found),
        Section("Estimates", tables=estimate_table(found)),
        Section("Method", notes=(*method(found), versions(found.environment)), where="page"),
    )
    return Page("Drift in the field", subtitle, sections, (f"{folder / DRIFT_FILE}",), drift_verdict(found))


def drift_verdict(found: Drift) -> Verdict:
    """The estimate against validation, and whether anything shifted."""
    held, (low, high) = found.estimate, found.estimate.interval
    side = "below" if held.drop >= 0 else "above"
    alarms = [WORDS[test.what] for test in found.tests if test.alarm]
    shifted = f"shifted: {' and '.join(alarms)}" if alarms else "no shift was found"
    sentence = (
        f"Accuracy is estimated at {share(held.accuracy)} % ({100 * low:.0f}-{100 * high:.0f}), {abs(held.drop):.1f} "
        f"points {side} validation; {shifted}."
    )
    numbers = [
        KeyNumber(f"{share(held.accuracy)} %", f"estimated accuracy, 95 % between {share(low)} and {share(high)}"),
        KeyNumber(f"{-held.drop:+.1f}", f"points to validation ({share(found.reference_accuracy.accuracy)} %)"),
    ]
    if found.unlike is not None:
        numbers.append(KeyNumber(f"{share(found.unlike.field)} %", "of the images are unlike any seen"))
    else:
        numbers.append(KeyNumber(f"{share(found.changed)} %", "of the answers went to other classes"))
    return Verdict(sentence, tuple(numbers))


def told(found: Drift) -> list[str]:
    """What there is to say beside the verdict, in sentences."""
    lines = []
    if rejected := found.rejected:
        low, high = rejected.field_interval
        lines.append(
            f"Unknown (below the reject threshold of {rejected.threshold:.3f}): {share(rejected.field)} % "
            f"({100 * low:.1f}-{100 * high:.1f}) of the field answers, {share(rejected.reference)} % of validation."
        )
    lines.append(RESTS[found.estimate.method])
    if found.estimate.reweighted:
        lines.append(
            "Other class shares alone explain the confidences, so validation was weighted to the shares of the field."
        )
    elif found.shifted:
        lines.append("A confidence is no proof: label some of these images before you act on the estimate.")
    if found.labelled:
        lines.append(f"Labels known for {found.labelled.n:,} images: {percent(found.labelled)} of them right.")
    if found.unreadable.n:
        some = "; ".join(found.unreadable.first)
        lines.append(f"Could not be read: {found.unreadable.n:,} of {found.n + found.unreadable.n:,}. {some}.")
    if unlike := found.unlike:
        low, high = unlike.field_interval
        lines.append(
            f"Unlike any seen: {share(unlike.field)} % ({100 * low:.1f}-{100 * high:.1f}) of the field images, "
            f"{share(unlike.reference)} % of the {unlike.n_reference:,} that the export was checked with."
        )
    else:
        lines.append(NO_EMBEDDING)
    return [*lines, *found.notes]


RESTS: dict[Method, str] = {
    "atc-by-class": "The estimate rests on confidences: the thresholds that validation sets for each class.",
    "rehearsed": "The estimate rests on what the export answered to altered validation images (its rehearsal).",
}
NO_EMBEDDING = (
    "Images unlike any seen were not looked for: that needs images and an export with an embedding (dhox export RUN "
    "--emit-embedding)."
)


def picture_sections(found: Drift, pictures: Pictures) -> tuple[Section, ...]:
    """The least sure images, and those of the classes that grew."""
    least = pictures.of(found.least_confident)
    grown = list(dict.fromkeys(image.predicted for image in found.examples))
    parts = tuple(
        Section(name, pictures=pictures.of([image for image in found.examples if image.predicted == name]))
        for name in grown
    )
    unlike = pictures.of(found.unlike.images) if found.unlike else ()
    note = pictures.album.note()
    order = ("By the cosine of their embedding to the nearest images that are known, the least like first.",)
    return (
        Section(notes=(note,) if note else (), where="page"),
        *((Section("Most unlike any seen", order, pictures=unlike, where="page"),) if unlike else ()),
        *((Section("Least confident", ("The least sure first.",), pictures=least, where="page"),) if least else ()),
        Section(
            "Answers that grew", ("Classes whose share grew most, their least sure images.",),
            parts=tuple(part for part in parts if part.pictures), cards=True, where="page",
        )
        if any(part.pictures for part in parts)
        else Section(),
    )  # fmt: skip


def confidence_chart(found: Drift) -> Chart:
    """Histograms of the top probability."""
    return Chart("Confidence", partial(draw_confidence, found), "Share of images by the probability of their answer.")


def draw_confidence(found: Drift) -> str:
    """Validation as an area, the field as a line."""

    def draw(axes: Any) -> None:
        edges = np.linspace(0, 100, BINS + 1)
        old, new = (100 * np.array(counts) for counts in (found.reference_histogram, found.field_histogram))
        axes[0].stairs(old / found.n_reference, edges, label="validation", fill=True, alpha=0.5)
        axes[0].stairs(new / found.n, edges, label="field", linewidth=1.8)
        axes[0].set(xlabel="top probability, %", ylabel="images, %", xlim=(0, 100), ylim=(0, None))

    return svg(draw, labels=["validation", "field"])


def most_changed(found: Drift) -> list[ClassShift]:
    """Classes by how much their share changed, the most first."""
    return sorted(
        (row for row in found.classes if row.reference or row.field),
        key=lambda row: -abs(row.field / found.n - row.reference / found.n_reference),
    )[:MOST_CLASSES]


def class_chart(found: Drift) -> Chart:
    """Shares of the predicted classes."""
    return Chart("Predicted classes", partial(draw_classes, found), "Share of the answers, most changed class first.")


def draw_classes(found: Drift) -> str:
    """Two bars for each class."""
    rows = most_changed(found)[:12]

    def draw(axes: Any) -> None:
        places = np.arange(len(rows))
        axes[0].barh(places - 0.2, [100 * row.reference / found.n_reference for row in rows], 0.38, label="validation")
        axes[0].barh(places + 0.2, [100 * row.field / found.n for row in rows], 0.38, label="field")
        names = [row.class_ if len(row.class_) <= 18 else f"{row.class_[:17]}…" for row in rows]
        axes[0].set_yticks(places, [name.replace("$", r"\$") for name in names], fontsize=SMALL)
        axes[0].invert_yaxis()
        axes[0].set(xlabel="answers, %")

    return svg(draw, labels=["validation", "field"])


def test_table(found: Drift) -> Any:
    """The tests."""
    rows = [
        cells(
            WORDS[test.what], test_words(test), p_text(test.p), p_text(test.adjusted_p), "yes" if test.alarm else "no"
        )
        for test in found.tests
    ]
    caption = (
        "p: of so large a difference where nothing shifted; adjusted for the number of tests (Holm): at most 5 % false "
        "alarms in all."
    )
    return table("what|<test|p|adjusted p|<shifted", rows, caption)


def test_words(test: ShiftTest) -> str:
    """The test and its statistic."""
    return f"{test.test}, {test.statistic:.3g}"


def p_text(p: float) -> str:
    """A p-value; the smallest that the draws can give is a bound."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def class_section(found: Drift) -> Section:
    """Every predicted class: its share, and how many of its answers are right."""
    rows = [
        cells(
            row.class_, f"{100 * row.reference / found.n_reference:.1f}", f"{100 * row.field / found.n:.1f}",
            f"{100 * (row.field / found.n - row.reference / found.n_reference):+.1f}", share(row.right),
            share(row.estimated_right), f"{row.field:,}",
        )
        for row in most_changed(found)
    ]  # fmt: skip
    shown = len(rows)
    caption = (
        f"Most changed first, {shown} of {len(found.classes)}. Right: share of these answers, in validation as labels "
        "say, in the field as estimated."
    )
    titles = "answer|validation, %|field, %|change|right, %|right in the field, %|field answers"
    return Section("By predicted class", tables=table(titles, rows, caption))


HEADLINES: dict[Method, str] = {"atc-by-class": "ATC by class", "rehearsed": "by rehearsed shifts"}


def estimate_table(found: Drift) -> Any:
    """The headline and the other ways to estimate."""
    held = found.estimate

    def interval(low: float, high: float) -> str:
        return f"{100 * low:.1f}-{100 * high:.1f}"

    rows = [
        cells(f"{HEADLINES[held.method]} (the headline)", share(held.accuracy), interval(*held.interval)),
        cells("the same, sampling alone", share(held.accuracy), interval(*held.sampling_interval)),
        cells("ATC", share(held.atc), ""),
        cells("DoC", share(held.doc), ""),
        cells(
            "validation, by labels",
            share(found.reference_accuracy.accuracy),
            interval(*found.reference_accuracy.interval),
        ),
    ]
    return table("accuracy|%|95 %", rows, "ATC and DoC mostly err upwards where a shift is strong.")


def method(found: Drift) -> list[str]:
    """How the numbers came about."""
    rehearsed = (
        "Rehearsed shifts: a Gaussian process of accuracy over altered validation images, by the share above ATC's "
        "thresholds, the mean confidence and the shares of the predicted classes. The interval holds what it is off by "
        "on kinds of alterations that it did not see."
    )
    return [
        *([rehearsed] if found.estimate.method == "rehearsed" else []),
        "ATC by class: the share of field answers of a class whose probability passes the threshold that as many of "
        "its validation answers pass as are right; classes with fewer than 20 share a threshold.",
        "Interval: bootstrap over validation and field images; where a test finds a shift, wider by what such "
        "estimates were off by on shifted images (docs/drift.md).",
        "Tests: Monte-Carlo p of 1,999 random divisions of all images. Images are taken for independent: frames of one "
        "recording are not.",
        f"Reference: the export's stored validation answers, {found.n_reference:,} images. Seed {found.seed}.",
    ]

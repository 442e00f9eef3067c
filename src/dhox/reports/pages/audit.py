"""An audit as sections: what the teacher knows of DATA, and whether distilling can pay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.audit import ZERO_SHOT, Audit, Confusion, NearCopies, Unlike
from dhox.artefacts.files import AUDIT_FILE
from dhox.artefacts.predictions import PREDICTIONS_FILE, read_predictions
from dhox.artefacts.record import read_record
from dhox.evidence.calibration import calibration_text
from dhox.reports.album import Album, Wanted, open_album
from dhox.reports.html import write_page
from dhox.reports.judged import Judged, Split, judged_by_file
from dhox.reports.pages.audit_prompts import prompt_sections
from dhox.reports.pages.gallery import Gallery, gallery_sections, note_section
from dhox.reports.sections import Cell, Column, KeyNumber, Page, Section, Table, Verdict, cells, table
from dhox.reports.text import percent, share, versions

MOST_CLASSES, MOST_TEMPLATES, MOST_PAIRS = 40, 20, 8
FEWEST_RECOGNISED = 0.5  # share of altered copies, below which a count of near-copies means little


def write_audit_page(folder: Path, most: int | None = None) -> Path:
    """Write FOLDER/audit.html from FOLDER/audit.json; pictures come from DATA, where it still is.

    `most`: pictures of each kind, whatever they weigh; None: as many as the page may embed.
    """
    audit = read_record(folder / AUDIT_FILE, Audit)
    answers = read_predictions(folder / PREDICTIONS_FILE).get((audit.teacher.name, ZERO_SHOT), {})
    classes = [entry.name for entry in audit.classes]
    by, split = f"{audit.teacher.name}, zero-shot", judging_split(audit)
    judged = judged_by_file(answers, classes, by, split)
    album = open_album([audit.data], [*answers, *shown_names(audit)], "val", most)
    return write_page(folder / "audit.html", audit_page(folder, audit, Pictures(album, judged, most)))


def judging_split(audit: Audit) -> Split:
    """Which images every accuracy of an audit is of."""
    return "labelled" if audit.judges.cross_validated else "validation"


def shown_names(audit: Audit) -> list[str]:
    """The images that an audit itself points at."""
    near = (pair for found in (audit.near_copies.validation, audit.near_copies.test) for pair in found.pairs)
    copies = [name for pair in near for name in (pair.image, pair.training_image)]
    mixed = [name for row in audit.confusions for name in row.examples]
    return [*copies, *mixed, *(row.image for row in audit.unlike.images)]


@dataclass(frozen=True)
class Pictures:
    """What a page shows pictures of: DATA's images, and the teacher's answers where they are kept."""

    album: Album
    judged: Judged | None
    most: int | None

    def sections(self) -> tuple[Section, ...]:
        """The teacher's mistakes, doubts and classes."""
        if self.judged is None:
            return (note_section(self.album),)
        return gallery_sections(Gallery(self.judged, self.album, self.most))


def audit_page(folder: Path, audit: Audit, pictures: Pictures | None = None) -> Page:
    """The whole audit; without `pictures` it is for the terminal."""
    sets = audit.sets
    subtitle = (
        f"{sets.labelled} labelled, {sets.unlabelled} unlabelled, {sets.validation} validation and {sets.test} test "
        f"images, {len(audit.classes)} classes, teacher {audit.teacher.name}"
    )
    notes = tuple(f"Note: {note.rstrip('.')}." for note in audit.notes)
    sure = (f"Teacher: {calibration_text(audit.teacher.calibration)}.",) if audit.teacher.calibration else ()
    copies, unlike = _copies_section(audit.near_copies, pictures), _unlike_section(audit, pictures)
    shown = pictures.sections() if pictures else ()
    sections = (
        Section(notes=(*sure, *audit.advice), marked=True),
        Section(notes=notes, where="terminal"),
        *([*shown, copies, unlike] if pictures else []),
        _ways_section(audit),
        *_template_sections(audit),
        *prompt_sections(audit),
        class_section(audit),
        confusion_section(audit, pictures),
        *([] if pictures else [copies, unlike]),
        Section("Method", notes=(*method_lines(audit), *notes, versions(audit.environment)), where="page"),
    )
    title, ends = f"Audit of {Path(audit.data).name}", (f"{folder / AUDIT_FILE}",)
    return Page(title, subtitle, sections, ends, audit_verdict(audit))


def audit_verdict(audit: Audit) -> Verdict:
    """Whether distilling can pay, the teacher, the best of what else there is, and leaks."""
    told, numbers = f"Distilling: {audit.verdict}", []
    if audit.ways:
        first, others = audit.ways[0], sorted(audit.ways[1:], key=lambda row: -row.correct)
        told += f"; the teacher answers {percent(first)} of {audit.judges.n:,} {judging_split(audit)} images rightly"
        low, high = first.interval
        of = f"of {first.n:,} images right, zero-shot ({100 * low:.1f}-{100 * high:.1f})"
        numbers.append(KeyNumber(f"{share(first.accuracy)} %", of))
        for row in others[:1]:
            model = "the teacher" if row.model == audit.teacher.name else row.model
            numbers.append(KeyNumber(f"{row.difference:+.1f}", f"points with {row.way} on {model}"))
    near = audit.near_copies
    exact, judging = near.validation.exact + near.test.exact, near.validation.n + near.test.n
    numbers.append(KeyNumber(f"{exact:,}", f"of {judging:,} validation and test images are copies of training images"))
    return Verdict(f"{told}.", tuple(numbers))


def _ways_section(audit: Audit) -> Section:
    first = audit.ways[0] if audit.ways else None
    rows = [
        cells(
            *("teacher" if row.model == audit.teacher.name else row.model, row.way, percent(row)),
            "" if row is first else f"{row.difference:+.1f} (≥ {row.lower_bound:+.1f})",
            f"{row.parameters / 1e6:.1f} M",
        )
        for row in audit.ways
    ]
    caption = (
        f"On {audit.judges.words}. Difference: to the teacher's zero-shot answers on the same images, in points, with "
        "its one-sided 95 % lower bound."
    )
    titles = "model|<way|accuracy (95 %)|difference|image tower"
    return Section("What there is to beat", tables=table(titles, rows, caption))


def _template_sections(audit: Audit) -> list[Section]:
    """Zero-shot with each template alone: all on the page, the best and the worst on the terminal."""
    rows = audit.templates
    if len(rows) < 2:
        return []
    ends = [
        f"{title} template, {row.template}: {percent(row)}." for title, row in (("Best", rows[0]), ("Worst", rows[-1]))
    ]
    listed = [cells(row.template, percent(row)) for row in rows[:MOST_TEMPLATES]]
    together = f"; all together: {share(audit.ways[0].accuracy)} %" if audit.ways else ""
    caption = f"Zero-shot with each template alone, the best {len(listed)} of {len(rows)}{together}."
    tables = table("template|accuracy (95 %)", listed, caption)
    return [Section(notes=tuple(ends), where="terminal"), Section("Templates", tables=tables, where="page")]


def class_section(audit: Audit) -> Section:
    """The weakest zero-shot classes."""
    judged = [row for row in audit.per_class if row.n]
    weakest = sorted(judged, key=lambda row: row.accuracy)[:MOST_CLASSES]
    rows = [
        cells(
            *(row.class_, row.n, percent(row)),
            f"{share(row.probe.accuracy)} %" if row.probe else "",
            f"{row.taken_for} ({row.times})" if row.taken_for else "",
        )
        for row in weakest
    ]
    caption = f"Weakest zero-shot class first, {len(rows)} of {len(judged)}."
    tables = table("class|n|zero-shot (95 %)|linear probe|<mostly taken for", rows, caption)
    return Section("Classes", tables=tables, where="page")


def confusion_section(audit: Audit, pictures: Pictures | None) -> Section:
    """Classes that are mixed up, and prompts that are alike."""
    shown = audit.confusions[:MOST_PAIRS]
    columns = (
        Column("classes", "name"), Column("first for second"), Column("second for first"), Column("images of both"),
        Column("text cosine", where="page"), Column("mixed up", "text", "page"),
    )  # fmt: skip
    rows = tuple(
        cells(
            " / ".join(row.classes), row.first_taken_for_second, row.second_taken_for_first, row.n,
            f"{row.text_cosine:.3f}", examples(row, pictures),
        )
        for row in shown
    )  # fmt: skip
    caption = "Zero-shot answers; the cosine is that of the two prompts. Pictures: images that were mixed up."
    alike = ", ".join(f"{' / '.join(row.classes)} {row.text_cosine:.3f}" for row in audit.closest_texts[:MOST_PAIRS])
    notes = (f"Prompts most alike (cosine): {alike}.",) if alike else ()
    return Section("Confusable classes", tables=(Table(columns, rows, caption),) if rows else (), notes=notes)


def examples(row: Confusion, pictures: Pictures | None) -> Cell:
    """The pictures of two classes."""
    return Cell("", pictures=pictures.album.pictures(Wanted(name, name) for name in row.examples) if pictures else ())


def _copies_section(near: NearCopies, pictures: Pictures | None) -> Section:
    """Copies of validation and test images among the training images."""
    parts = [
        Section(
            f"The nearest pairs of {name}",
            pictures=pictures.album.pictures(
                wanted
                for pair in found.pairs[:MOST_PAIRS]
                for wanted in (
                    Wanted(pair.image, f"{pair.cosine:.4f} like"),
                    Wanted(pair.training_image, "in training:"),
                )
            ),
        )
        for name, found in (("validation", near.validation), ("test", near.test))
        if pictures
    ]
    return Section("Copies of validation and test images in training", tuple(_near_sentences(near)), parts=tuple(parts))


def _near_sentences(near: NearCopies) -> list[str]:
    told = near.threshold is not None and (near.recognised or 0) >= FEWEST_RECOGNISED
    lines = []
    for name, found in (("Validation", near.validation), ("Test", near.test)):
        if found.n:
            count = f", and {found.near} look near-copied" if told else ""
            lines.append(f"{name}: {found.exact} of {found.n} are exact copies of training images{count}.")
    if lines and near.threshold is not None:
        lines.append(
            f"Near-copies: cosine above {near.threshold:.4f}, which 99.9 % of {near.calibrated_on} labelled images do "
            f"not reach with another class. It recognises {100 * (near.recognised or 0):.0f} % of lightly altered "
            f"copies, and {100 * (near.control or 0):.0f} % of the training images pass it among themselves"
            + ("." if told else ": this teacher cannot tell near-copies here, so look at the pairs in the report.")
        )
    return lines


def _unlike_section(audit: Audit, pictures: Pictures | None) -> Section:
    ranked = ", averaged with the rank of the greatest cosine to a labelled image" if audit.sets.labelled > 1 else ""
    order = (
        "An order, not a verdict: among the images with the same nearest class, the rank of the cosine to its "
        f"text{ranked}."
    )
    names = [entry.name for entry in audit.classes]
    wanted = (Wanted(row.image, f"nearest: {names[row.nearest_class]}") for row in audit.unlike.images)
    shown = pictures.album.pictures(wanted) if pictures else ()
    return Section(
        "Images unlike any class",
        (_unlike_sentence(audit.unlike),),
        parts=(Section(intro=(order,), pictures=shown, where="page"),),
    )


def _unlike_sentence(unlike: Unlike) -> str:
    """How many unlabelled images lie outside the labelled ones."""
    if unlike.below is None:
        return f"Least like any class: the lowest ranks of {unlike.n} {unlike.of} images are in the report."
    return (
        f"Unlike any class: {share(unlike.below)} % of {unlike.n} unlabelled images rank below the lowest 5 % of the "
        "labelled ones (about 5 % where both are of one kind)."
    )


def method_lines(audit: Audit) -> list[str]:
    """How the numbers came about."""
    teacher = audit.teacher
    bias = "" if teacher.logit_bias is None else f", logit bias {teacher.logit_bias:g} (changes no softmax)"
    probe = (
        "cross-validated: each image is answered by a probe that did not see it, and whose strength other folds chose"
        if audit.judges.cross_validated
        else "trained on the labelled images, its strength chosen by cross-validation among them"
    )
    return [
        f"Accuracies: {audit.judges.words}, whole images; Wilson intervals. Test labels are not read.",
        f"Teacher: scale {teacher.scale:.3g}{bias}, {len(teacher.templates)} templates averaged.",
        f"Linear probe: L2-regularised logistic regression on the image embeddings, {probe}.",
        "Differences are paired, on the same images; the bound is one-sided at 95 %.",
        "The best template of several was picked on the images that measure it, so its accuracy is optimistic.",
    ]

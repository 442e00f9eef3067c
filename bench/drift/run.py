"""`dhox drift`: field images without labels against the validation answers of an export. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from dhox.artefacts.common import Accuracy
from dhox.artefacts.drift import (
    BINS,
    ClassShift,
    Drift,
    Estimate,
    FieldImage,
    Rejected,
    ShiftTest,
    Unlike,
    Unreadable,
)
from dhox.artefacts.files import DRIFT_FILE, DRIFT_SCHEMA, check_output, free_name, output_directory
from dhox.artefacts.record import write_record
from dhox.bench.drift.accuracy import Estimated, estimate
from dhox.bench.drift.field import Field, read_field
from dhox.bench.drift.options import DriftOptions
from dhox.bench.drift.sample import Answers, Reference, stored_reference
from dhox.bench.drift.shift import ALPHA, Shift, find_shift, holm
from dhox.bench.drift.unlike import NEIGHBOURS, Likeness, likeness
from dhox.errors import GateFailedError
from dhox.evidence.statistics import wilson_interval
from dhox.models.export_directory import Export, open_export
from dhox.predicting.rows import Row
from dhox.progress import working
from dhox.system.environment import now, versions

NAMED = 8  # unreadable images
LEAST_SURE, CLASSES_SHOWN, OF_CLASS = 24, 4, 8  # images that the page shows
DEFAULTS = DriftOptions()


@dataclass(frozen=True)
class DriftResult:
    """A drift directory with what is in its drift.json."""

    directory: Path
    drift: Drift


def drift(export: Path, images: list[str], options: DriftOptions = DEFAULTS) -> DriftResult:
    """Answer the images, or read their answers, and write drift.json into a directory of its own.

    `images`: what `dhox predict` takes but cameras, or files that it wrote. Raises DhoxError for an export without
    validation answers, too few images, and answers of another model. A limit is judged by `check_drop`.
    """
    opened = open_export(export)
    reference = stored_reference(opened)
    out = options.output.out or free_name(export.resolve().parent / "drift" / f"{datetime.now():%Y%m%d-%H%M%S}")
    check_output(out, DRIFT_FILE, DRIFT_SCHEMA, options.output.overwrite)
    field = read_field(opened, images, options.how)
    with working("Comparing with validation"):
        content = compared(opened, images, reference, field, options)
    with output_directory(out, DRIFT_FILE, DRIFT_SCHEMA, options.output.overwrite) as folder:
        write_record(folder / DRIFT_FILE, content)
    return DriftResult(out, content)


def compared(opened: Export, images: list[str], reference: Reference, field: Field, options: DriftOptions) -> Drift:
    """The content of drift.json."""
    rng = np.random.default_rng(options.how.seed)
    answers = field.answers
    like = None if field.embeddings is None else likeness(opened.embeddings().embedding, field.embeddings)
    shift = find_shift(reference, answers, rng, None if like is None else like.compare())
    estimated = estimate(reference, answers, shift, rng, opened.rehearsal())
    tests = shift_tests(shift)
    return Drift(
        finished_at=now(),
        export=str(opened.path.absolute()),
        model=field.model,
        images=images,
        of_answers=field.of_answers,
        n_reference=len(reference),
        n=len(answers),
        unreadable=Unreadable(
            field.tally.unreadable, [f"{row.path}: {row.error}" for row in field.tally.first_unreadable[:NAMED]]
        ),
        reference_accuracy=Accuracy.of(reference.right),
        labelled=field.labelled,
        tests=tests,
        shifted=any(test.alarm for test in tests),
        changed=shift.changed,
        estimate=estimate_record(estimated),
        mean_confidence=(float(reference.confidence.mean()), float(answers.confidence.mean())),
        reference_histogram=histogram(reference),
        field_histogram=histogram(answers),
        classes=class_rows(opened.manifest.names, reference, answers, estimated),
        rejected=rejected(opened, reference, answers),
        unlike=None if like is None else unlike_record(like, field.rows),
        least_confident=least_sure(field.rows, answers, np.ones(len(answers), bool), LEAST_SURE),
        examples=examples(field.rows, reference, answers),
        max_estimated_drop=options.gates.max_estimated_drop,
        notes=[*field.notes, *precision_notes(opened, field)],
        seed=options.how.seed,
        environment=versions(),
    )


def shift_tests(shift: Shift) -> list[ShiftTest]:
    """The tests with p-values for their number."""
    adjusted = holm([test.p for test in shift.tests])
    named = (("confidence", "Kolmogorov-Smirnov"), ("classes", "G"), ("unlike", "Fisher, one-sided"))
    return [
        ShiftTest(
            what=what, test=test, statistic=found.statistic, p=found.p, adjusted_p=p, alarm=p <= ALPHA  # type: ignore[arg-type]
        )
        for (what, test), found, p in zip(named, shift.tests, adjusted, strict=False)
    ]  # fmt: skip


def estimate_record(found: Estimated) -> Estimate:
    """As drift.json holds it."""
    return Estimate(
        accuracy=found.accuracy, interval=found.interval, sampling_interval=found.sampling, drop=found.drop,
        drop_bound=found.drop_bound, reweighted=found.reweighted, atc=found.atc, doc=found.doc, method=found.method,
    )  # fmt: skip


def histogram(answers: Answers) -> list[int]:
    """Answers by their confidence, in BINS bins of equal width."""
    return np.histogram(answers.confidence, BINS, (0, 1))[0].tolist()


def class_rows(names: list[str], reference: Reference, field: Answers, found: Estimated) -> list[ClassShift]:
    """Every class as it was predicted here and there."""
    old, new = reference.counts, field.counts
    right = np.bincount(reference.predicted[reference.right], minlength=len(names))
    return [
        ClassShift(
            class_=name, reference=int(old[i]), field=int(new[i]), right=float(right[i] / old[i]) if old[i] else None,
            estimated_right=min(1.0, float(found.of_class[i] / new[i])) if new[i] else None,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip


def rejected(opened: Export, reference: Reference, field: Answers) -> Rejected | None:
    """Shares below the reject threshold, where the export has one."""
    reject = opened.manifest.reject
    if reject is None:
        return None
    below = field.below(reject.threshold)
    return Rejected(
        threshold=reject.threshold, reference=reference.below(reject.threshold) / len(reference),
        field=below / len(field), field_interval=wilson_interval(below, len(field)),
    )  # fmt: skip


def least_sure(rows: list[Row], answers: Answers, among: np.ndarray, most: int) -> list[FieldImage]:
    """The least confident of the images `among`, bool [N]."""
    order = [int(place) for place in np.argsort(answers.confidence, kind="stable") if among[place]]
    return [field_image(rows[place]) for place in order[:most]]


def field_image(row: Row, similarity: float | None = None) -> FieldImage:
    """As drift.json names it."""
    return FieldImage(
        path=row.path, frame=row.frame, predicted=row.top[0].name, confidence=row.top[0].probability,
        similarity=similarity,
    )  # fmt: skip


def examples(rows: list[Row], reference: Reference, field: Answers) -> list[FieldImage]:
    """The least sure images of the classes whose share grew most."""
    grown = field.counts / len(field) - reference.counts / len(reference)
    places = [place for place in np.argsort(-grown, kind="stable")[:CLASSES_SHOWN] if grown[place] > 0]
    return [image for place in places for image in least_sure(rows, field, field.predicted == place, OF_CLASS)]


def unlike_record(like: Likeness, rows: list[Row]) -> Unlike:
    """As drift.json holds it, with the most unlike images."""
    below = int((like.field < like.threshold).sum())
    places = [int(place) for place in np.argsort(like.field, kind="stable")[:LEAST_SURE]]
    return Unlike(
        neighbours=NEIGHBOURS, threshold=like.threshold, n_reference=len(like.reference),
        reference=float((like.reference < like.threshold).mean()), field=below / len(like.field),
        field_interval=wilson_interval(below, len(like.field)),
        images=[field_image(rows[place], float(like.field[place])) for place in places],
    )  # fmt: skip


def precision_notes(opened: Export, field: Field) -> list[str]:
    """What the reference cannot know of another precision than its own."""
    used = [entry.precision for entry in opened.manifest.artefacts if entry.file in field.model]
    if "int8" not in used:
        return []
    return ["The answers are of int8, those of validation of fp32: a part of the shift may be the precision's."]


def check_drop(found: Drift) -> None:
    """Raise GateFailedError where the bound of the estimated drop is above the limit."""
    allowed, held = found.max_estimated_drop, found.estimate
    if allowed is None or held.drop_bound <= allowed:
        return
    raise GateFailedError(
        f"Accuracy is estimated {held.drop:.1f} points below validation, by the 95 % bound up to {held.drop_bound:.1f} "
        f"(allowed: {allowed:g}), on {found.n:,} field and {found.n_reference:,} validation images.",
        "Label some of these images (dhox suggest) and train again, give more images where the bound is far above the "
        "estimate, or allow more with --max-estimated-drop.",
    )

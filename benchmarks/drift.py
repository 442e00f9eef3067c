"""How near `dhox drift` comes to the truth: estimated against true accuracy on planted shifts, and false alarms.

    python benchmarks/drift.py EXPORT DATA [--set development] [--field 1000] [--draws 400] [--hold-out]

EXPORT: of a run whose DATA has a labelled test split (`dhox demo`: runs/demo/export demo-data). One half of the test
images (by lot) is for development, the other for reporting, and so are the kinds of shifts: what was chosen by the
first set (thresholds by class, the rule for class shares, the error of the method) is reported on the second. Besides
the planted changes, class shares are drawn from Dirichlet distributions. Unshifted halves: all test images, divided by
lot. An export with an embedding (--emit-embedding) has a third test, and the share of unlike images is shown. One with
a rehearsal (--rehearse-drift) estimates by it, where a shift is found; --hold-out leaves out what it knows of the very
kind of a shift, and --no-rehearsal all of it. --other-shares: the changed images have other class shares at once.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from planted_shifts import DEVELOPMENT, REPORTED

from dhox.artefacts.rehearsal import Rehearsal
from dhox.bench.drift.accuracy import Estimated, estimate
from dhox.bench.drift.sample import Answers, Reference, reference_of, stored_reference
from dhox.bench.drift.shift import Shift, find_shift
from dhox.bench.drift.unlike import Likeness, likeness
from dhox.data.dataset import Item, read_dataset, read_image
from dhox.evidence.statistics import wilson_interval
from dhox.models.classifier import ExportedModel, load
from dhox.models.export_directory import Export
from dhox.progress import progress_bar
from dhox.runtimes.predict import ImageLike, pixels_of

NEAR = 0.03  # of the truth, in accuracy
DIRICHLET = [3.0, 3.0, 1.0, 1.0, 0.3, 0.3]  # smaller: more unequal class shares


@dataclass(frozen=True)
class Found:
    """One shift: what was true, and what was said."""

    shift: str
    truth: float
    estimated: Estimated
    alarm: bool
    unlike: float | None

    @property
    def error(self) -> float:
        """Of the estimate, in [-1, 1]."""
        return self.estimated.accuracy - self.truth

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.estimated.interval[0] <= self.truth <= self.estimated.interval[1]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Answers to images with labels, and their embeddings, where the export gives them."""

    answers: Reference
    embeddings: np.ndarray | None

    def of(self, images: np.ndarray) -> Labelled:
        """The same of chosen images."""
        return Labelled(self.answers.of(images), None if self.embeddings is None else self.embeddings[images])


def answered(model: ExportedModel, images: Sequence[ImageLike], labels: np.ndarray) -> Labelled:
    """What the export answers."""
    pixels = pixels_of(images, model.preprocessing)
    parts = [model.probs_and_embeddings(pixels[i : i + 256]) for i in range(0, len(pixels), 256)]
    embeddings = [part[1] for part in parts if part[1] is not None]
    probs = np.concatenate([part[0] for part in parts])
    return Labelled(reference_of(probs, labels), np.concatenate(embeddings) if embeddings else None)


def shift_of(old: Labelled, new: Labelled, rng: np.random.Generator) -> tuple[Shift, Likeness | None]:
    """The tests, without the labels of `new`, and the likeness of its images."""
    field = Answers(new.answers.confidence, new.answers.predicted, new.answers.classes)
    like = None
    if old.embeddings is not None and new.embeddings is not None:
        like = likeness(old.embeddings, new.embeddings)
    return find_shift(old.answers, field, rng, None if like is None else like.compare()), like


def judged(reference: Labelled, rehearsal: Rehearsal | None, field: Labelled, name: str, seed: int) -> Found:
    """The estimate for a field whose labels are known, which it does not see."""
    rng, known = np.random.default_rng(seed), field.answers
    shift, like = shift_of(reference, field, rng)
    answers = Answers(known.confidence, known.predicted, known.classes)
    estimated = estimate(reference.answers, answers, shift, rng, rehearsal)
    unlike = None if like is None else float((like.field < like.threshold).mean())
    return Found(name, float(known.right.mean()), estimated, shift.alarm, unlike)


def rehearsal_for(export: Export, planted: str, asked: argparse.Namespace) -> Rehearsal | None:
    """What the export rehearsed, where it did and it is asked for; with --hold-out without the kind of a shift."""
    found = None if asked.no_rehearsal else export.rehearsal()
    if found is None or not asked.hold_out:
        return found
    return found.of(found.kinds != planted.split()[0] if planted != "none" else np.ones(len(found.kinds), bool))


def fields(
    model: ExportedModel, items: list[Item], which: str, most: int, other_shares: bool
) -> Iterator[tuple[str, Labelled]]:
    """The shifted fields of one set: images as they are, changed (with `other_shares`: these too), then with other
    class shares."""
    half = np.array_split(np.random.default_rng(0).permutation(len(items)), 2)[which == "reported"]
    images = [read_image(items[i]).copy() for i in half]
    labels = np.array([model.classes.index(str(items[i].label)) for i in half])
    plain = answered(model, images, labels)
    yield "none", plain.of(np.arange(min(most, len(half))))
    planted = REPORTED if which == "reported" else DEVELOPMENT
    with progress_bar("Answering shifted images", len(planted)) as advance:
        for number, shift in enumerate(planted):
            some = enumerate(images[:most])
            changed = [shift.change(one, np.random.default_rng(i)) for i, one in some]
            field = answered(model, changed, labels[:most])
            yield str(shift), drawn(field, 1.0, most, np.random.default_rng(number)) if other_shares else field
            advance(1)
    rng = np.random.default_rng(1 + (which == "reported"))
    for alpha in DIRICHLET:
        yield f"class shares {alpha:g}", drawn(plain, alpha, most, rng)


def drawn(field: Labelled, alpha: float, n: int, rng: np.random.Generator) -> Labelled:
    """`n` images of a field with other class shares, from a Dirichlet distribution."""
    labels = field.answers.labels
    weight = rng.dirichlet(np.full(field.answers.classes, alpha))[labels]
    return field.of(rng.choice(len(labels), n, p=weight / weight.sum()))


def false_alarms(pool: Labelled, draws: int) -> int:
    """Alarms between two halves that were divided by lot."""
    alarms = 0
    with progress_bar("Dividing unshifted images", draws) as advance:
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            halves = np.array_split(rng.permutation(len(pool.answers)), 2)
            old, new = (pool.of(half) for half in halves)
            alarms += shift_of(old, new, rng)[0].alarm
            advance(1)
    return alarms


def show(rows: list[Found]) -> None:
    """A line per shift, and what they come to."""
    print(f"{'shift':<18} {'true':>6} {'estimated':>9} {'error':>6}  {'95 %':<11} {'ATC':>6} {'DoC':>6}  alarm")
    for row in rows:
        found, (low, high) = row.estimated, row.estimated.interval
        note = "" if row.unlike is None else f" {100 * row.unlike:.0f} % unlike"
        note += (
            " rehearsed" * (found.method == "rehearsed")
            + " reweighted" * found.reweighted
            + " NOT COVERED" * (not row.covered)
        )
        print(
            f"{row.shift:<18} {100 * row.truth:6.1f} {100 * found.accuracy:9.1f} {100 * row.error:+6.1f}  "
            f"{100 * low:4.1f}-{100 * high:<6.1f} {100 * (found.atc - row.truth):+6.1f} "
            f"{100 * (found.doc - row.truth):+6.1f}  {'yes' if row.alarm else 'no'}{note}"
        )
    shifted = rows[1:]
    print(f"\n{len(shifted)} shifts, without the unshifted row:")
    for name, errors in (
        ("headline", [row.error for row in shifted]),
        ("ATC", [row.estimated.atc - row.truth for row in shifted]),
        ("DoC", [row.estimated.doc - row.truth for row in shifted]),
        ("mean of ATC, DoC", [(row.estimated.atc + row.estimated.doc) / 2 - row.truth for row in shifted]),
    ):
        off = np.abs(errors)
        print(f"  {name:<17} within 3 points: {(off <= NEAR).sum():2}; mean error {100 * off.mean():.1f}, median "
              f"{100 * np.median(off):.1f}, largest {100 * off.max():.1f}")  # fmt: skip
    widths = [row.estimated.interval[1] - row.estimated.interval[0] for row in shifted]
    sampling = [row.estimated.sampling[0] <= row.truth <= row.estimated.sampling[1] for row in shifted]
    print(f"  interval covers {sum(row.covered for row in shifted)} of {len(shifted)} (the bootstrap alone: "
          f"{sum(sampling)}), median width {100 * np.median(widths):.1f} points; alarm in "
          f"{sum(row.alarm for row in shifted)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", choices=["development", "reported"], default="reported")
    parser.add_argument("--field", type=int, default=1000, help="field images of each shift")
    parser.add_argument("--draws", type=int, default=400, help="unshifted halves")
    parser.add_argument("--hold-out", action="store_true", help="estimate as if a shift's kind were not rehearsed")
    parser.add_argument("--other-shares", action="store_true", help="changed images in other class shares too")
    parser.add_argument("--no-rehearsal", action="store_true", help="estimate as if nothing were rehearsed")
    asked = parser.parse_args()
    model = load(asked.export, "cpu")
    export, items = model.export, read_dataset(asked.data, "test")["test"]
    known = export.embeddings().embedding if export.manifest.embedding is not None else None
    reference = stored_reference(export)
    shown = fields(model, items, asked.set, asked.field, asked.other_shares)
    rows = [
        judged(Labelled(reference, known), rehearsal_for(export, name, asked), field, name, seed)
        for seed, (name, field) in enumerate(shown)
    ]
    print(f"{asked.export}, {asked.set} shifts, {len(reference)} validation images ({100 * reference.right.mean():.1f} "
          f"% right), {asked.field} field images; Python {platform.python_version()}\n")  # fmt: skip
    show(rows)
    pool = answered(model, items, np.array([model.classes.index(str(item.label)) for item in items]))
    alarms = false_alarms(pool, asked.draws)
    low, high = wilson_interval(alarms, asked.draws)
    print(f"False alarms: {alarms} of {asked.draws} unshifted halves of {len(items)} images, "
          f"{100 * alarms / asked.draws:.1f} % ({100 * low:.1f}-{100 * high:.1f}), at 5 %.")  # fmt: skip


if __name__ == "__main__":
    main()

"""How near `dhox drift` comes to the truth: estimated against true accuracy on planted shifts, and false alarms.

    python benchmarks/drift.py EXPORT DATA [--set development] [--field 1000] [--draws 400]

EXPORT: of a run whose DATA has a labelled test split (`dhox demo`: runs/demo/export demo-data). One half of the test
images (by lot) is for development, the other for reporting, and so are the kinds of shifts: what was chosen by the
first set (thresholds by class, the rule for class shares, the error of the method) is reported on the second. Besides
the planted changes, class shares are drawn from Dirichlet distributions. Unshifted halves: validation and test images
together, divided by lot. With an export that has an embedding the share of unlike images is shown too.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from planted_shifts import DEVELOPMENT, REPORTED

from dhox.bench.drift.accuracy import Estimated, estimate
from dhox.bench.drift.sample import Answers, Reference, reference_of, stored_reference
from dhox.bench.drift.shift import find_shift
from dhox.data.dataset import read_dataset, read_image
from dhox.evidence.statistics import wilson_interval
from dhox.models.classifier import ExportedModel, load
from dhox.progress import progress_bar

NEAR = 0.03  # of the truth, in accuracy
DIRICHLET = [3.0, 3.0, 1.0, 1.0, 0.3, 0.3]  # smaller: more unequal class shares


@dataclass(frozen=True)
class Found:
    """One shift: what was true, and what was said."""

    shift: str
    truth: float
    estimated: Estimated
    alarm: bool

    @property
    def error(self) -> float:
        """Of the estimate, in [-1, 1]."""
        return self.estimated.accuracy - self.truth

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.estimated.interval[0] <= self.truth <= self.estimated.interval[1]


def judged(reference: Reference, field: Reference, name: str, seed: int) -> Found:
    """The estimate for a field whose labels are known, which it does not see."""
    rng = np.random.default_rng(seed)
    answers = Answers(field.confidence, field.predicted, field.classes)
    shift = find_shift(reference, answers, rng)
    return Found(name, float(field.right.mean()), estimate(reference, answers, shift, rng), shift.alarm)


def fields(model: ExportedModel, data: Path, which: str, most: int) -> Iterator[tuple[str, Reference]]:
    """The shifted fields of one set, each with its labels: images changed, then class shares."""
    items = read_dataset(data, "test")["test"]
    half = np.array_split(np.random.default_rng(0).permutation(len(items)), 2)[which == "reported"]
    images = [read_image(items[i]).copy() for i in half]
    number = {name: place for place, name in enumerate(model.classes)}
    labels = np.array([number[str(items[i].label)] for i in half])
    plain = reference_of(model.probs_of(images), labels)
    yield "none", plain.of(np.arange(min(most, len(half))))
    planted = REPORTED if which == "reported" else DEVELOPMENT
    with progress_bar("Answering shifted images", len(planted)) as advance:
        for shift in planted:
            changed = [shift.change(one, shift.strength, np.random.default_rng(i)) for i, one in enumerate(images)]
            yield str(shift), reference_of(model.probs_of(changed[:most]), labels[:most])
            advance(1)
    rng = np.random.default_rng(1 + (which == "reported"))
    for alpha in DIRICHLET:
        weight = rng.dirichlet(np.full(len(number), alpha))[labels]
        yield f"class shares {alpha:g}", plain.of(rng.choice(len(labels), most, p=weight / weight.sum()))


def false_alarms(pool: Reference, draws: int) -> int:
    """Alarms between two halves that were divided by lot."""
    alarms = 0
    with progress_bar("Dividing unshifted images", draws) as advance:
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            halves = np.array_split(rng.permutation(len(pool)), 2)
            old, new = (pool.of(half) for half in halves)
            alarms += find_shift(old, new, rng).alarm
            advance(1)
    return alarms


def show(rows: list[Found]) -> None:
    """A line per shift, and what they come to."""
    print(f"{'shift':<18} {'true':>6} {'estimated':>9} {'error':>6}  {'95 %':<11} {'ATC':>6} {'DoC':>6}  alarm")
    for row in rows:
        found, (low, high) = row.estimated, row.estimated.interval
        note = " reweighted" * found.reweighted + " NOT COVERED" * (not row.covered)
        print(
            f"{row.shift:<18} {100 * row.truth:6.1f} {100 * found.accuracy:9.1f} {100 * row.error:+6.1f}  "
            f"{100 * low:4.1f}-{100 * high:<6.1f} {100 * (found.atc - row.truth):+6.1f} "
            f"{100 * (found.doc - row.truth):+6.1f}  {'yes' if row.alarm else 'no'}{note}"
        )
    shifted = rows[1:]
    print(f"\n{len(shifted)} shifts, without the unshifted row:")
    for name, errors in (
        ("ATC by class", [row.error for row in shifted]),
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
    asked = parser.parse_args()
    model = load(asked.export, "cpu")
    reference = stored_reference(model.export)
    shown = fields(model, asked.data, asked.set, asked.field)
    rows = [judged(reference, field, name, seed) for seed, (name, field) in enumerate(shown)]
    print(f"{asked.export}, {asked.set} shifts, {len(reference)} validation images ({100 * reference.right.mean():.1f} "
          f"% right), {asked.field} field images; Python {platform.python_version()}\n")  # fmt: skip
    show(rows)
    items = read_dataset(asked.data, "test")["test"]
    test = reference_of(model.probs_of(items), np.array([model.classes.index(str(item.label)) for item in items]))
    columns = ("confidence", "predicted", "labels")
    both = {name: np.concatenate([getattr(one, name) for one in (reference, test)]) for name in columns}
    pool = Reference(classes=reference.classes, **both)
    alarms = false_alarms(pool, asked.draws)
    low, high = wilson_interval(alarms, asked.draws)
    print(f"False alarms: {alarms} of {asked.draws} unshifted halves of {len(pool)} images, "
          f"{100 * alarms / asked.draws:.1f} % ({100 * low:.1f}-{100 * high:.1f}), at 5 %.")  # fmt: skip


if __name__ == "__main__":
    main()

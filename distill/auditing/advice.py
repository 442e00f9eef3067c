"""Whether distilling can pay, and against what simpler thing: sentences from measured accuracies, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.artefacts.audit import Verdict, WayName, WayRow
from dhox.evidence.statistics import paired_difference_lower_bound, wilson_interval

FEWEST_JUDGES = 50  # labelled images, below which no advice is given
TOLERANCE = 1.0  # points of accuracy within which a smaller model counts as equally good


@dataclass(frozen=True)
class Way:
    """One way to answer, measured on the same images as every other.

    `parameters`: of the image tower. `answers`: int [N]; `right`: bool [N].
    """

    way: WayName
    model: str
    parameters: int
    right: np.ndarray
    answers: np.ndarray


def way_row(way: Way, first: Way) -> WayRow:
    """One way with its accuracy, and the paired difference to the teacher's zero-shot answers."""
    return WayRow.of(
        way.right,
        way=way.way,
        model=way.model,
        parameters=way.parameters,
        difference=100 * float(way.right.mean() - first.right.mean()),
        lower_bound=100 * paired_difference_lower_bound(way.right, first.right),
    )


def advise(ways: list[Way], n_unlabelled: int, commonest: float) -> tuple[Verdict, list[str]]:
    """(can pay | unlikely to pay | cannot tell, sentences with measured accuracies).

    `commonest`: share of the commonest class among the images that judge, what guessing it would get right.
    """
    if not ways:
        return "cannot tell", ["No image has a label, so nothing can be measured. Label some for val/CLASS/."]
    zero_shot, n = ways[0], len(ways[0].right)
    own = [way for way in ways if way.model == zero_shot.model]
    small = [way for way in ways if way.model != zero_shot.model]
    best = max(own, key=lambda way: way.right.mean())
    size = f"{zero_shot.parameters / 1e6:.1f} M parameters in its image tower"
    lines = [
        f"The simpler thing is the teacher itself: {said(zero_shot)}, with {size}. Distil where that is too "
        "slow or too large for the target."
    ]
    probe = next((way for way in own if way.way == "linear probe"), None)
    if probe is None:
        lines.append("No linear probe: some class has fewer than two labelled images.")
    else:
        bound = 100 * paired_difference_lower_bound(probe.right, zero_shot.right)
        helps = "these labels add nothing measurable; other prompts, another teacher or more labels have to"
        if bound > 0:
            helps = "the labels add what the prompts miss, and a training learns it (--adapter probe, its default)"
        lines.append(
            f"A linear probe on the teacher's embeddings: {said(probe)}, {difference(probe, zero_shot)}: {helps}. It "
            "is as large as the teacher, and what a student has to come near."
        )
    verdict: Verdict = "can pay"
    if n_unlabelled == 0:
        verdict = "unlikely to pay"
        lines.append("There is no unlabelled image: the teacher can only be asked about images whose label is known.")
    if wilson_interval(int(zero_shot.right.sum()), n)[0] <= commonest:
        verdict = "unlikely to pay"
        lines.append(
            f"The teacher, {said(zero_shot)}, is not above guessing the commonest class ({100 * commonest:.1f} %): it "
            "has nothing to pass on. Choose another teacher, or better class names (--classes) and prompts"
            f"{', or let --adapter probe (the default) learn from the labels' if best is not zero_shot else ''}."
        )
    if small:
        rival = max(small, key=lambda way: way.right.mean())
        as_good = 100 * paired_difference_lower_bound(rival.right, best.right) >= -TOLERANCE
        verdict = "unlikely to pay" if as_good else verdict
        then = (
            "Use it as it is, or distil into something smaller still." if as_good else "Distilling can win that back."
        )
        lines.append(
            f"A small ready-made model, {rival.model} ({rival.way}, {rival.parameters / 1e6:.1f} M parameters): "
            f"{said(rival)}, {difference(rival, best)} to the teacher's {best.way}. {then}"
        )
    else:
        lines.append("No small ready-made model was measured: add --small-clip MODEL to compare with one.")
    if n < FEWEST_JUDGES:
        verdict = "cannot tell"
        lines.append(f"Only {n} labelled images judge: add at least {FEWEST_JUDGES} to val/CLASS/ before deciding.")
    return verdict, lines


def said(way: Way) -> str:
    """Accuracy, interval and number of images of a way."""
    low, high = wilson_interval(int(way.right.sum()), len(way.right))
    return f"{100 * way.right.mean():.1f} % ({100 * low:.1f}-{100 * high:.1f}, n = {len(way.right)})"


def difference(way: Way, other: Way) -> str:
    """The paired difference of two ways, in points."""
    points = 100 * float(way.right.mean() - other.right.mean())
    bound = 100 * paired_difference_lower_bound(way.right, other.right)
    return f"{points:+.1f} points (one-sided 95 % lower bound {bound:+.1f})"

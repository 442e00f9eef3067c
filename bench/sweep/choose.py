"""Which student to distill: a latency budget, the Pareto front, and what follows from them (plain functions)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from dhox.artefacts.sweep import Choice, Front, KnownAccuracy, SweepRow

MOST_ADVISED = 3


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, value) that no other point dominates: at most the cost and at least the value of
    another, and better in one of both. In the order given; equal points are on the front together."""
    return [
        place
        for place, (cost, value) in enumerate(points)
        if not any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)
    ]


def within_budget(row: SweepRow, budget_ms: float) -> bool:
    """Whether the upper end of the interval of the median latency is within the budget."""
    return row.p50_interval[1] <= budget_ms


def choose(rows: list[SweepRow], budget_ms: float) -> Choice:
    """What to distill.

    Where accuracies are known, the most accurate student within the budget; only accuracies on the same images are
    compared. Where they are not, the answer is which trainings would tell the most: the largest students that no faster
    one outgrows.
    """
    fitting = sorted((row for row in rows if within_budget(row, budget_ms)), key=median)
    if not fitting:
        return _nothing_fits(rows, budget_ms)
    known, images = _comparable(fitting)
    front = [fitting[place] for place in pareto_front([(median(row), row.parameters) for row in fitting])]
    largest = [row for row in sorted(front, key=median, reverse=True) if row.student not in known]
    names = [row.student for row in fitting]
    if not known:
        advised = [row.student for row in largest[:MOST_ADVISED]]
        reasons = [
            f"Within {budget_ms:g} ms: {', '.join(names)}.",
            "No run of one of them tells an accuracy, and accuracy decides. Of the largest that no faster one "
            f"outgrows, distill and compare: {', '.join(advised)}. More parameters are a hint, not an accuracy.",
        ]
        return Choice(distill=advised, within=names, reasons=reasons)
    first, reasons = _most_accurate([row for row in fitting if row.student in known], known, images, budget_ms)
    unknown = [name for name in names if name not in known]
    if unknown:
        reasons.append(f"Within the budget too, but without an accuracy on the same images: {', '.join(unknown)}.")
    more = [row.student for row in largest if row.parameters > first.parameters][: MOST_ADVISED - 1]
    if more:
        reasons.append(
            f"Of these, distill and compare {', '.join(more)}: larger than {first.student}, and no faster one "
            "outgrows them."
        )
    return Choice(distill=[first.student, *more], within=names, reasons=reasons)


def _nothing_fits(rows: list[SweepRow], budget_ms: float) -> Choice:
    """No advice, and how far the nearest student is from the budget."""
    nearest = min(rows, key=lambda row: row.p50_interval[1])
    reason = (
        f"No student is within {budget_ms:g} ms. The nearest is {nearest.student} with a median of "
        f"{median(nearest):.3g} ms (95 % interval up to {nearest.p50_interval[1]:.3g} ms)."
    )
    return Choice(distill=[], within=[], reasons=[reason])


def _most_accurate(
    rows: list[SweepRow], known: dict[str, KnownAccuracy], images: str, budget_ms: float
) -> tuple[SweepRow, list[str]]:
    """The most accurate student of several, and why; a faster one that is not told apart from it is named."""
    best = sorted(rows, key=lambda row: -known[row.student].accuracy)
    first = best[0]
    what = "the most accurate" if len(best) > 1 else "the only one with a known accuracy"
    reasons = [
        f"Within {budget_ms:g} ms, {first.student} is {what}: {_accuracy_text(known[first.student])} on {images}, at a "
        f"median of {median(first):.3g} ms."
    ]
    lowest = known[first.student].interval[0]
    alike = [row for row in best[1:] if known[row.student].interval[1] >= lowest and median(row) < median(first)]
    if alike:
        fastest = min(alike, key=median)
        reasons.append(
            f"{fastest.student} is faster ({median(fastest):.3g} ms), and its {_accuracy_text(known[fastest.student])} "
            "is not told apart from that by these images: the intervals overlap."
        )
    return first, reasons


def _comparable(rows: list[SweepRow]) -> tuple[dict[str, KnownAccuracy], str]:
    """The students trained by one method whose accuracies are about the same images, and what these are; of several
    such groups the one with most students, then the one with more images."""
    groups: dict[tuple[str, str, int, str], dict[str, KnownAccuracy]] = {}
    for row in rows:
        if row.accuracy is not None:
            key = (row.accuracy.split, row.accuracy.data, row.accuracy.n, row.accuracy.method)
            groups.setdefault(key, {})[row.student] = row.accuracy
    if not groups:
        return {}, ""
    found = max(groups, key=lambda key: (len(groups[key]), key[2]))
    split, data, n, method = found
    return groups[found], f"{n:,} images of {split} ({PurePath(data).name}), method {method}"


def fronts(rows: list[SweepRow]) -> Front:
    """The Pareto fronts against latency: of accuracy, where accuracies can be compared, and of parameters."""
    accuracies, _ = _comparable(rows)
    known = [row for row in rows if row.student in accuracies]
    by_accuracy = pareto_front([(median(row), accuracies[row.student].accuracy) for row in known])
    by_size = pareto_front([(median(row), row.parameters) for row in rows])
    return Front([known[place].student for place in by_accuracy], [rows[place].student for place in by_size])


def median(row: SweepRow) -> float:
    """Median latency in milliseconds."""
    return row.latency_ms.p50


def _accuracy_text(known: KnownAccuracy) -> str:
    """81.2 % (79.0 to 83.3)."""
    low, high = known.interval
    return f"{100 * known.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

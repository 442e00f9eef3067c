"""Which student to distill: a latency budget, the Pareto front, and what follows from them (plain functions)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dhox.errors import UsageError

UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
MOST_ADVISED = 3


@dataclass(frozen=True)
class Choice:
    """`distill`: the students to distill, best first; empty where none is within the budget. `within`: the students
    within it, fastest first. `words`: the reasons, as sentences."""

    distill: list[str]
    within: list[str]
    words: list[str]


def parse_budget(text: str) -> float:
    """A latency such as 5ms, 0.5 ms, 200us or 2s, in milliseconds. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s)\s*", text)
    budget = float(found[1]) * UNITS_MS[found[2]] if found else 0.0
    if not 0 < budget < float("inf"):
        raise UsageError(
            f"--budget {text} is no latency.", "Write a number above 0 with its unit: 5ms, 0.5ms, 200us or 2s."
        )
    return budget


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, value) that no other point dominates: at most the cost and at least the value of
    another, and better in one of both. In the order given; equal points are on the front together."""
    return [
        place
        for place, (cost, value) in enumerate(points)
        if not any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)
    ]


def within_budget(row: dict[str, Any], budget_ms: float) -> bool:
    """Whether the upper end of the interval of the median latency is within the budget."""
    return bool(row["p50_interval"][1] <= budget_ms)


def choose(rows: list[dict[str, Any]], budget_ms: float) -> Choice:
    """What to distill by rows of sweep.json: `student`, `latency_ms`, `p50_interval`, `parameters`, `accuracy`.

    Where accuracies are known, the most accurate student within the budget; only accuracies on the same images are
    compared. Where they are not, the answer is which trainings would tell the most: the largest students that no faster
    one outgrows.
    """
    fitting = sorted((row for row in rows if within_budget(row, budget_ms)), key=median)
    names = [row["student"] for row in fitting]
    if not fitting:
        nearest = min(rows, key=lambda row: row["p50_interval"][1])
        return Choice(
            [],
            [],
            [
                f"No student is within {budget_ms:g} ms. The nearest is {nearest['student']} with a median of "
                f"{median(nearest):.3g} ms (95 % interval up to {nearest['p50_interval'][1]:.3g} ms)."
            ],
        )
    known, images = comparable(fitting)
    best = sorted((row for row in fitting if row["student"] in known), key=lambda row: -row["accuracy"]["accuracy"])
    front = [fitting[place] for place in pareto_front([(median(row), row["parameters"]) for row in fitting])]
    largest = [row for row in sorted(front, key=median, reverse=True) if row["student"] not in known]
    unknown = [row["student"] for row in fitting if row["student"] not in known]
    if not best:
        advised = [row["student"] for row in largest[:MOST_ADVISED]]
        words = [
            f"Within {budget_ms:g} ms: {', '.join(names)}.",
            "No run of one of them tells an accuracy, and accuracy decides. Of the largest that no faster one "
            f"outgrows, distill and compare: {', '.join(advised)}. More parameters are a hint, not an accuracy.",
        ]
        return Choice(advised, names, words)
    first = best[0]
    what = "the most accurate" if len(best) > 1 else "the only one with a known accuracy"
    words = [
        f"Within {budget_ms:g} ms, {first['student']} is {what}: {accuracy_words(first)} on {images}, at a median of "
        f"{median(first):.3g} ms."
    ]
    alike = [
        row
        for row in best[1:]
        if row["accuracy"]["interval"][1] >= first["accuracy"]["interval"][0] and median(row) < median(first)
    ]
    if alike:
        fastest = min(alike, key=median)
        words.append(
            f"{fastest['student']} is faster ({median(fastest):.3g} ms), and its {accuracy_words(fastest)} is not told "
            "apart from that by these images: the intervals overlap."
        )
    if unknown:
        words.append(f"Within the budget too, but without an accuracy on the same images: {', '.join(unknown)}.")
    more = [row["student"] for row in largest if row["parameters"] > first["parameters"]][: MOST_ADVISED - 1]
    if more:
        words.append(
            f"Of these, distill and compare {', '.join(more)}: larger than {first['student']}, and no faster one "
            "outgrows them."
        )
    return Choice([first["student"], *more], names, words)


def comparable(rows: list[dict[str, Any]]) -> tuple[set[str], str]:
    """The students trained by one method whose accuracies are about the same images, and what these are; of several
    such groups the one with most students, then the one with more images."""
    groups: dict[tuple[str, str, int, str], set[str]] = {}
    for row in rows:
        if row["accuracy"]:
            key = (row["accuracy"]["split"], row["accuracy"]["data"], row["accuracy"]["n"], row["accuracy"]["method"])
            groups.setdefault(key, set()).add(row["student"])
    if not groups:
        return set(), ""
    found = max(groups, key=lambda key: (len(groups[key]), key[2]))
    split, data, n, method = found
    return groups[found], f"{n:,} images of {split} ({PurePath(data).name}), method {method}"


def fronts(rows: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The Pareto fronts against latency: of accuracy, where accuracies can be compared, and of parameters."""
    known = [row for row in rows if row["student"] in comparable(rows)[0]]
    by_accuracy = pareto_front([(median(row), row["accuracy"]["accuracy"]) for row in known])
    by_size = pareto_front([(median(row), row["parameters"]) for row in rows])
    return [known[place]["student"] for place in by_accuracy], [rows[place]["student"] for place in by_size]


def median(row: dict[str, Any]) -> float:
    """Median latency in milliseconds."""
    return float(row["latency_ms"]["p50"])


def accuracy_words(row: dict[str, Any]) -> str:
    """81.2 % (79.0 to 83.3)."""
    low, high = row["accuracy"]["interval"]
    return f"{100 * row['accuracy']['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

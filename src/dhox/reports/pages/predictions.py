"""What `dhox predict` answers, as sections."""

from __future__ import annotations

import numpy as np

from dhox.reports.sections import Column, Page, Section, Table, cells


def prediction_page(names: list[str], answers: list[list[tuple[str, float]]], unknown: list[bool]) -> Page:
    """The first classes of each image with their probabilities; `unknown`: less sure than the export's threshold."""
    rows = tuple(
        cells(
            name,
            *(["unknown" if unsure else ""] if any(unknown) else []),
            *(f"{label} {100 * probability:.1f} %" for label, probability in first),
        )
        for name, first, unsure in zip(names, answers, unknown, strict=True)
    )
    ranks = [Column(f"{rank}.", "text") for rank in range(1, len(answers[0]) + 1)]
    columns = (Column("image", "name"), *[Column("answer")] * any(unknown), *ranks)
    return Page(sections=(Section(tables=(Table(columns, rows),)),))


def first_classes(probs: np.ndarray, classes: list[str], top: int) -> list[tuple[str, float]]:
    """The `top` most probable classes of [C] probabilities, ties in class order."""
    return [(classes[i], round(float(probs[i]), 6)) for i in np.argsort(-probs, kind="stable")[:top]]


def prediction_json(
    names: list[str], answers: list[list[tuple[str, float]]], unknown: list[bool]
) -> list[dict[str, object]]:
    """The same as plain values."""
    return [
        {
            "path": name,
            "label": None if unsure else first[0][0],
            "unknown": unsure,
            "top": [{"class": label, "probability": probability} for label, probability in first],
        }
        for name, first, unsure in zip(names, answers, unknown, strict=True)
    ]

"""Recall and precision per class, from counts alone."""

from __future__ import annotations

import numpy as np

from dhox.bench.accuracy import per_class


def test_classes_of_a_known_case() -> None:
    labels, answers = np.array([0, 0, 0, 1, 3]), np.array([0, 0, 1, 1, 0])
    rows = [(row.name, row.n, row.recall, row.precision) for row in per_class(labels, answers, ["a", "b", "c", "d"])]
    assert rows == [("a", 3, 2 / 3, 2 / 3), ("b", 1, 1.0, 0.5), ("c", 0, None, None), ("d", 1, 0.0, None)]


def test_a_hundred_thousand_classes_need_no_matrix() -> None:
    labels = np.arange(0, 100_000, 10)
    rows = per_class(labels, labels, [str(number) for number in range(100_000)])
    assert sum(row.recall or 0 for row in rows) == len(labels)

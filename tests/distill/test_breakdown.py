"""Where zero-shot answers go wrong: equal to a plain evaluation of the whole confusion matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhox.distill.auditing.advice import Way
from dhox.distill.auditing.breakdown import SHOWN, class_rows, confusion_rows
from dhox.evidence.statistics import confusion_matrix


def subject_of(truth: np.ndarray, classes: int) -> Any:
    items = [SimpleNamespace(name=f"{i}") for i in range(len(truth))]
    judges = SimpleNamespace(labels=torch.from_numpy(truth), items=items)
    return SimpleNamespace(judges=judges, labels=[f"c{i}" for i in range(classes)])


def way_of(truth: np.ndarray, answers: np.ndarray) -> Way:
    return Way("zero-shot", "T", 1, truth == answers, answers)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 80), classes=st.integers(2, 9))
def test_rows_equal_those_of_the_whole_matrix(seed: int, n: int, classes: int) -> None:
    truth, answers = np.random.default_rng(seed).integers(0, classes, (2, n))
    matrix = confusion_matrix(truth, answers, classes)
    ways, subject = [way_of(truth, answers)], subject_of(truth, classes)
    pairs = [(a, b) for a in range(classes) for b in range(a + 1, classes) if matrix[a, b] + matrix[b, a]]
    pairs.sort(key=lambda pair: -(matrix[pair] + matrix[pair[::-1]]))
    found = confusion_rows(ways, subject, torch.eye(classes))
    assert [row.classes for row in found] == [(f"c{a}", f"c{b}") for a, b in pairs[:SHOWN]]
    for row, (a, b) in zip(found, pairs, strict=False):
        assert (row.first_taken_for_second, row.second_taken_for_first) == (matrix[a, b], matrix[b, a])
        mixed = [i for i in range(n) if {truth[i], answers[i]} == {a, b}]
        assert row.examples == [str(i) for i in mixed[:4]]
        assert row.n == (truth == a).sum() + (truth == b).sum()
    for number, of_class in enumerate(class_rows(ways, subject)):
        assert (of_class.n, of_class.correct) == ((truth == number).sum(), matrix[number, number])
        wrong = np.where(np.arange(classes) == number, 0, matrix[number])
        assert of_class.times == wrong.max()
        assert of_class.taken_for == (f"c{wrong.argmax()}" if wrong.any() else None)


def test_a_hundred_thousand_classes_need_no_matrix() -> None:
    truth = np.arange(100_000)
    answers = np.where(truth % 1000 == 0, truth + 1, truth)
    found = confusion_rows([way_of(truth, answers)], subject_of(truth, len(truth)), torch.eye(1).expand(100_000, 1))
    assert [row.classes[0] for row in found] == [f"c{1000 * i}" for i in range(SHOWN)]
    assert len(class_rows([way_of(truth, answers)], subject_of(truth, len(truth)))) == 100_000

"""What one model answered to images with labels, and which of them are worth a look (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dhox.artefacts.common import Accuracy
from dhox.artefacts.logits import Logits
from dhox.artefacts.predictions import Answers

Split = Literal["test", "validation", "labelled"]


@dataclass(frozen=True, eq=False)
class Judged:
    """The answers of a model to N images.

    `labels`, `answers`: class numbers, int [N]; `sure`: the probability of the answer, in [0, 1]; `split`: which images
    they are; `by`: what answered, in words.
    """

    classes: list[str]
    names: list[str]
    labels: np.ndarray
    answers: np.ndarray
    sure: np.ndarray
    split: Split
    by: str

    @property
    def right(self) -> np.ndarray:
        """bool [N]."""
        right: np.ndarray = self.answers == self.labels
        return right

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 with its interval."""
        return Accuracy.of(self.right)

    def surest(self, which: np.ndarray, most: int | None = None) -> list[int]:
        """The images of bool [N], the surest answer first; ties in the order of the images."""
        return self._ordered(which, -self.sure, most)

    def least_sure(self, which: np.ndarray, most: int | None = None) -> list[int]:
        """The same, the least sure answer first."""
        return self._ordered(which, self.sure, most)

    def _ordered(self, which: np.ndarray, by: np.ndarray, most: int | None) -> list[int]:
        images = np.flatnonzero(which)
        chosen: list[int] = images[np.argsort(by[images], kind="stable")][:most].tolist()
        return chosen


def judged_by_probs(probs: np.ndarray, logits: Logits, classes: list[str], split: Split, by: str) -> Judged:
    """From probabilities [N, C], of the images of `logits`."""
    return Judged(classes, logits.names.tolist(), logits.labels, probs.argmax(-1), probs.max(-1), split, by)


def judged_by_file(answers: Answers, classes: list[str], by: str, split: Split = "test") -> Judged | None:
    """From predictions.csv; None where it names a class that is none of `classes`, or no image."""
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [(numbers.get(one.label), numbers.get(one.predicted), one.probability) for one in answers.values()]
    if not rows or any(label is None or answer is None for label, answer, _ in rows):
        return None
    labels, predicted, sure = (np.array(column) for column in zip(*rows, strict=True))
    return Judged(classes, [*answers], labels.astype(int), predicted.astype(int), sure, split, by)

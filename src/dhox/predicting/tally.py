"""What many predictions come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dhox.artefacts.common import Accuracy
from dhox.predicting.rows import Row

NAMED = 8  # unreadable images that are named


@dataclass
class Tally:
    """Counts of rows: answers by class, unknown, unreadable (the first are kept), and labelled ones that are right.

    `classes`: what the model can answer. `outside`: labels that it cannot.
    """

    classes: frozenset[str]
    images: int = 0
    predicted: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    unreadable: int = 0
    first_unreadable: list[Row] = field(default_factory=list)
    labelled: int = 0
    right: int = 0
    answered: int = 0
    right_of_answered: int = 0
    outside: Counter[str] = field(default_factory=Counter)

    def add(self, rows: list[Row]) -> None:
        """Count some more."""
        for row in rows:
            self.images += 1
            if row.error is not None:
                self.unreadable += 1
                self.first_unreadable += [row] if len(self.first_unreadable) < NAMED else []
                continue
            if row.predicted is None:
                self.unknown += 1
            else:
                self.predicted[row.predicted] += 1
            if row.label in self.classes:
                self.count_label(row)
            elif row.label is not None:
                self.outside[row.label] += 1

    def count_label(self, row: Row) -> None:
        """Whether a row of a known label is right."""
        self.labelled += 1
        self.right += row.right
        if row.predicted is not None:
            self.answered += 1
            self.right_of_answered += row.right

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the labelled images; None where there is none."""
        return Accuracy.of_counts(self.right, self.labelled) if self.labelled else None

    @property
    def accuracy_of_answered(self) -> Accuracy | None:
        """The same of those that were not unknown; None where all were answered, or none."""
        some = 0 < self.answered < self.labelled
        return Accuracy.of_counts(self.right_of_answered, self.answered) if some else None

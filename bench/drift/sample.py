"""Answers of an export to two sets of images: its validation images, with labels, and field images, without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.artefacts.logits import VAL_FILE
from dhox.errors import DhoxError
from dhox.export.folding.fold import fold_probs
from dhox.models.export_directory import Export
from dhox.predicting.rows import Row

FEWEST_IMAGES = 20  # of either set: fewer leave the accuracy open by more than 20 points each way
DECIMALS = 6  # of a probability in the rows of `dhox predict`


@dataclass(frozen=True, eq=False)
class Answers:
    """`confidence`: top-1 probabilities float64 [N]; `predicted`: classes int64 [N]; `classes`: C."""

    confidence: np.ndarray
    predicted: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def counts(self) -> np.ndarray:
        """Answers by class, int [C]."""
        return np.bincount(self.predicted, minlength=self.classes)

    def below(self, threshold: float) -> int:
        """How many are less sure than a threshold."""
        return int((self.confidence < threshold).sum())


@dataclass(frozen=True, eq=False)
class Reference(Answers):
    """The same of images with `labels`, int64 [N]."""

    labels: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which answers are right, bool [N]."""
        return np.asarray(self.predicted == self.labels)

    def of(self, images: np.ndarray) -> Reference:
        """The same of chosen images, by their numbers, some perhaps twice."""
        return Reference(self.confidence[images], self.predicted[images], self.classes, self.labels[images])


def rounded(confidence: np.ndarray) -> np.ndarray:
    """Probabilities as rows of predictions hold them, float64."""
    return np.round(confidence.astype(float), DECIMALS)


def reference_of(probs: np.ndarray, labels: np.ndarray) -> Reference:
    """From probabilities [N, C], rounded as rows of predictions are."""
    return Reference(rounded(probs.max(-1)), probs.argmax(-1), probs.shape[1], labels)


def stored_reference(export: Export) -> Reference:
    """The exported head's answers to the validation images, from val.npz. Raises DhoxError where they are too few."""
    val = export.validation()
    if len(val) < FEWEST_IMAGES:
        raise DhoxError(
            f"{export.path / VAL_FILE} holds {len(val)} validation images with labels, and drift is measured against "
            f"at least {FEWEST_IMAGES}.",
            "Give DATA a val split or more labels, train again, and export.",
        )
    return reference_of(fold_probs(val, export.manifest.fold), val.labels)


def answers_of(rows: list[Row], classes: list[str]) -> Answers:
    """Rows that have an answer as arrays. Raises DhoxError for a class that the export does not have."""
    number = {name: place for place, name in enumerate(classes)}
    unknown = next((row.top[0].name for row in rows if row.top[0].name not in number), None)
    if unknown is not None:
        raise DhoxError(
            f"The answers name the class {unknown!r}, which the export does not have.",
            "Give the answers of this export.",
        )
    return Answers(
        np.array([row.top[0].probability for row in rows], float),
        np.array([number[row.top[0].name] for row in rows], np.int64),
        len(classes),
    )

"""rehearsal.npz: what an export answers to altered validation images, by which drift estimates accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from dhox.artefacts.arrays import Array

REHEARSAL_FILE = "rehearsal.npz"
UNALTERED = "none"  # the kind of the first row
FEWEST_REHEARSED = 20  # images


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Answers of the fp32 graph to N validation images with `labels`, in K ways: row 0 as they are, the others altered
    by `kinds` (of dhox.export.rehearsal.alterations) with `strengths`. `confidence`: top probability; `predicted`: its
    class."""

    kinds: Annotated[np.ndarray, Array("str", "K")]
    strengths: Annotated[np.ndarray, Array("float64", "K")]
    labels: Annotated[np.ndarray, Array("int64", "N", low=0, below="C")]
    confidence: Annotated[np.ndarray, Array("float32", "K N", low=0, high=1.001)]
    predicted: Annotated[np.ndarray, Array("int32", "K N", low=0, below="C")]

    def __post_init__(self) -> None:
        if self.kinds[:1].tolist() != [UNALTERED] or UNALTERED in self.kinds[1:] or len({*self.kinds.tolist()}) < 3:
            raise ValueError(f"has not one row of the kind {UNALTERED!r} first and two kinds of alterations after it")
        if len(self.labels) < FEWEST_REHEARSED:
            raise ValueError(f"holds {len(self.labels)} images, fewer than {FEWEST_REHEARSED}")

    def of(self, rows: np.ndarray) -> Rehearsal:
        """The same of chosen rows, bool [K], the first one among them."""
        over = ("kinds", "strengths", "confidence", "predicted")
        return replace(self, **{name: getattr(self, name)[rows] for name in over})

    @property
    def right(self) -> np.ndarray:
        """Which answers are right, bool [K, N]."""
        return np.asarray(self.predicted == self.labels)

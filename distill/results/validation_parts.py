"""Which validation images choose and which judge: halves, or folds where images are few; groups stay whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dhox.artefacts.files import stable_hash
from dhox.artefacts.logits import Logits

IMAGES_FOR_HALVES = 1000  # from here on one half selects and the other gates
FOLDS = 5


@dataclass(frozen=True)
class Judging:
    """Images that choose and images that judge that choice, bool [N] each, of one split after the other."""

    images: Literal["gate-half", "cross-fitted"]
    splits: list[tuple[np.ndarray, np.ndarray]]

    @property
    def judged(self) -> np.ndarray:
        """bool [N]: the images that judge in some split."""
        return np.any([judge for _, judge in self.splits], axis=0)


def selecting_half(val: Logits) -> np.ndarray:
    """bool [N]: which validation images select; the others gate. With fewer than IMAGES_FOR_HALVES, all select."""
    return np.ones(len(val), bool) if len(val) < IMAGES_FOR_HALVES else _dealt(val, 2) == 0


def judging(val: Logits, fewest: int) -> Judging | None:
    """How a choice that was made on validation is judged by images that had no part in it.

    By the half that does not select; else by five-fold cross-fitting. None where a choice would then see fewer than
    `fewest` images: there is no independent evidence.
    """
    half = selecting_half(val)
    found = Judging("gate-half", [(half, ~half)])
    if half.all():
        folds = _dealt(val, FOLDS)
        found = Judging("cross-fitted", [(folds != k, folds == k) for k in range(FOLDS) if (folds == k).any()])
    return found if found.splits and all(choose.sum() >= fewest for choose, _ in found.splits) else None


def _dealt(val: Logits, parts: int) -> np.ndarray:
    """int [N]: the part of each image, by a hash of its name alone, so that no other image moves it.

    Where images have groups, whole groups: the largest first, each to the part with the fewest images.
    """
    if val.groups is None:
        return np.array([stable_hash(name) % parts for name in val.names.tolist()], int)
    units = [f"{group}/" if group else name for group, name in zip(val.groups, val.names, strict=True)]
    sizes, n_images, part = Counter(units), [0] * parts, {}
    for unit in sorted(sizes, key=lambda unit: (-sizes[unit], stable_hash(unit))):
        part[unit] = n_images.index(min(n_images))
        n_images[part[unit]] += sizes[unit]
    return np.array([part[unit] for unit in units], int)

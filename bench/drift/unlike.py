"""Images unlike any seen: how near their embedding is to the nearest reference embeddings, numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhox.bench.drift.sample import FEWEST_IMAGES
from dhox.bench.drift.shift import Compared, share_test

NEIGHBOURS = 5
UNLIKE_SHARE = 0.05  # of the reference images are as unlike the others
CHUNK = 1024  # field images at a time


@dataclass(frozen=True, eq=False)
class Likeness:
    """Mean cosine to the NEIGHBOURS nearest reference images: of each reference image among the others, float [M], and
    of each field image, float [N]. Below `threshold` an image is unlike any seen."""

    reference: np.ndarray
    field: np.ndarray
    threshold: float

    def compare(self) -> Compared:
        """Whether more field images than reference images are unlike any seen."""
        old, new = (int((one < self.threshold).sum()) for one in (self.reference, self.field))
        return share_test(old, len(self.reference), new, len(self.field))


def likeness(reference: np.ndarray, field: np.ndarray) -> Likeness | None:
    """Of embeddings float [M, D] and [N, D]; None where the reference images are fewer than FEWEST_IMAGES."""
    if len(reference) < FEWEST_IMAGES:
        return None
    known = unit(reference)
    own = nearest(known, known, skip_itself=True)
    threshold = float(np.sort(own)[int(UNLIKE_SHARE * len(own))])
    return Likeness(own, nearest(unit(field), known), threshold)


def nearest(images: np.ndarray, known: np.ndarray, skip_itself: bool = False) -> np.ndarray:
    """Mean cosine of unit vectors [N, D] to their NEIGHBOURS nearest of [M, D], float [N]. `skip_itself`: both are the
    same images, and none is its own neighbour."""
    found = []
    for start in range(0, len(images), CHUNK):
        cosines = images[start : start + CHUNK] @ known.T
        if skip_itself:
            cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -2
        found.append(np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1))
    return np.clip(np.concatenate(found), -1, 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))

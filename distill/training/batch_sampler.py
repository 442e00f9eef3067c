"""Which images and views a training step takes: a pure function of (seed, step), for any number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LABELLED, UNLABELLED, VIEWS = range(3)  # streams of random numbers


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """The batches of a training: labelled images first (numbers from 0), then unlabelled ones (numbers from N_L).

    Both streams are endless: reshuffled for every pass, every pass whole. `labels`: int [N_L]. `views`: views per image
    to draw from. `balanced`: a pass over L holds every class equally often, images of rare classes repeated.
    """

    labels: np.ndarray
    n_unlabelled: int
    batch_labelled: int
    batch_unlabelled: int
    views: int
    seed: int
    balanced: bool = False

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(image numbers, view numbers), int [B] each, of step 0, 1, ...; this process's part of the global batch.

        `world` must divide both batch sizes.
        """
        per_pass = self.labelled_pass_length()
        labelled = self.stream(LABELLED, per_pass, step * self.batch_labelled, self.batch_labelled)
        unlabelled = self.stream(UNLABELLED, self.n_unlabelled, step * self.batch_unlabelled, self.batch_unlabelled)
        numbers = np.concatenate([labelled, unlabelled + len(self.labels)])
        views = np.random.default_rng((self.seed, VIEWS, step)).integers(self.views, size=len(numbers))
        parts = [
            start + np.arange(rank * size // world, (rank + 1) * size // world)
            for start, size in ((0, self.batch_labelled), (self.batch_labelled, self.batch_unlabelled))
        ]
        mine = np.concatenate(parts)
        return numbers[mine], views[mine]

    def stream(self, part: int, per_pass: int, position: int, count: int) -> np.ndarray:
        """`count` numbers of an endless stream from a position on."""
        chunks = []
        while count > 0:
            turn, offset = divmod(position, per_pass)
            chunk = self.one_pass(part, turn)[offset : offset + count]
            chunks.append(chunk)
            position, count = position + len(chunk), count - len(chunk)
        return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)

    @lru_cache(maxsize=8)  # noqa: B019 - a sampler lives as long as its training
    def one_pass(self, part: int, turn: int) -> np.ndarray:
        """The shuffled numbers of one pass."""
        random = np.random.default_rng((self.seed, part, turn))
        if part == UNLABELLED:
            return random.permutation(self.n_unlabelled)
        if not self.balanced:
            return random.permutation(len(self.labels))
        _, counts = np.unique(self.labels, return_counts=True)
        of_class = np.split(np.argsort(self.labels, kind="stable"), np.cumsum(counts)[:-1])
        repeated = [np.resize(random.permutation(numbers), counts.max()) for numbers in of_class]
        return random.permutation(np.concatenate(repeated))

    def labelled_pass_length(self) -> int:
        """Images in a pass over L."""
        if not self.balanced or not len(self.labels):
            return len(self.labels)
        _, counts = np.unique(self.labels, return_counts=True)
        return len(counts) * int(counts.max())

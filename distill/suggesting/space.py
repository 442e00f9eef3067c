"""Where images lie: a teacher's embeddings beside its class probabilities, a part of the rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

CHUNK = 16384  # rows whose features are in memory together
PROBABILITY_WEIGHT = 0.5  # of the square roots of the probabilities beside an embedding of length 1
PAIRS = 4096  # random pairs that tell how far apart images are

Features = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Space:
    """Embeddings z float16 [N, D], normalised: the first `n_labelled` rows have a label, the others may be suggested.

    `text`: class text embeddings [C, D], normalised; `scale`: factor of the cosines; `groups`: a number [N] for the
    camera or recording of each image, the same for images of one group; images without a group have one of their own.
    """

    z: torch.Tensor
    text: torch.Tensor
    scale: float
    groups: torch.Tensor
    n_labelled: int

    def __len__(self) -> int:
        return len(self.z)

    @property
    def pile(self) -> torch.Tensor:
        """The rows that may be suggested, int64."""
        return torch.arange(self.n_labelled, len(self))

    def only(self, rows: torch.Tensor) -> Space:
        """Some of the rows; the labelled ones are among them."""
        return Space(self.z[rows], self.text, self.scale, self.groups[rows], self.n_labelled)

    def probs(self, rows: torch.Tensor) -> torch.Tensor:
        """The teacher's zero-shot probabilities of some rows, float32 [n, C]."""
        return (self.scale * self.z[rows].float() @ self.text.T).softmax(-1)

    def embeddings(self, rows: torch.Tensor) -> torch.Tensor:
        """The embeddings of some rows, float32 [n, D]."""
        return self.z[rows].float()

    def joint(self, rows: torch.Tensor) -> torch.Tensor:
        """Embedding and sqrt(probabilities) side by side, float32 [n, D + C]: near where both are (Hellinger)."""
        return torch.cat([self.embeddings(rows), PROBABILITY_WEIGHT * self.probs(rows).sqrt()], 1)

    def spread(self, features: Features, generator: torch.Generator) -> float:
        """The mean squared distance of two random images."""
        rows = torch.randint(len(self), (2, min(PAIRS, len(self) ** 2)), generator=generator)
        return float((features(rows[0]) - features(rows[1])).square().sum(1).mean())


def chunks(rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(places, rows) of CHUNK rows at a time."""
    for start in range(0, len(rows), CHUNK):
        yield slice(start, start + CHUNK), rows[start : start + CHUNK]


def squared_distances(x: torch.Tensor, y: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """|x_i - y_j|^2 [n, m], never negative. `lengths`: |x_i|^2 [n], where they are known."""
    lengths = squares(x) if lengths is None else lengths
    product = torch.addmm(squares(y)[None], x, y.T, alpha=-2)
    return product.add_(lengths[:, None]).clamp_(min=0)


def squares(x: torch.Tensor) -> torch.Tensor:
    """|x_i|^2, [n]."""
    return torch.einsum("nd,nd->n", x, x)

"""k-means (Lloyd 1982) with k-means++ starts (Arthur and Vassilvitskii 2007), on a sample where images are many."""

from __future__ import annotations

import torch

from dhox.distill.suggesting.space import Features, chunks, squared_distances, squares

SAMPLE, SAMPLE_PER_CLUSTER = 20_000, 16  # images that the centres are fitted to, at least
ITERATIONS = 20
SETTLED = 1e-3  # share of the sample that changes its cluster, below which the centres stay
TRIALS = 3  # candidates for each start: the one that leaves the least distance is taken


def cluster(features: Features, n: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """The cluster of each of n rows, int64 [n] in 0 ... k - 1; a cluster may be empty.

    `features`: row numbers to points, float32 [m, d].
    """
    size = max(SAMPLE, SAMPLE_PER_CLUSTER * k)
    sample = torch.randperm(n, generator=generator)[:size].sort().values
    centres = fit_centres(features(sample), min(k, len(sample)), generator)
    found = torch.empty(n, dtype=torch.long)
    for place, rows in chunks(torch.arange(n)):
        found[place] = squared_distances(features(rows), centres).argmin(1)
    return found


def fit_centres(x: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k centres [k, d] of points x [n, d]; a cluster that loses its points keeps its centre."""
    centres = first_centres(x, k, generator)
    before = torch.full((len(x),), -1)
    for _ in range(ITERATIONS):
        own = torch.cat([squared_distances(x[place], centres).argmin(1) for place, _ in chunks(torch.arange(len(x)))])
        if float((own != before).float().mean()) <= SETTLED:
            break
        counts = own.bincount(minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, own, x)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
        before = own
    return centres


def first_centres(x: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k of the points, each drawn with a probability in proportion to its squared distance to those before."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    lengths = squares(x)
    left = squared_distances(x, x[chosen], lengths)[:, 0]
    while len(chosen) < k:
        total = float(left.double().sum())
        if total <= 0:  # every point is one of the centres
            rest = torch.ones(len(x), dtype=torch.bool).index_fill_(0, torch.tensor(chosen), False).nonzero()[:, 0]
            chosen += rest[: k - len(chosen)].tolist()
            break
        drawn = torch.rand(TRIALS, generator=generator, dtype=torch.float64) * total
        candidates = torch.searchsorted(left.double().cumsum(0), drawn).clamp_(max=len(x) - 1)
        after = torch.minimum(squared_distances(x, x[candidates], lengths), left[:, None])
        best = int(after.sum(0).argmin())
        chosen.append(int(candidates[best]))
        left = after[:, best].contiguous()
    return x[chosen]

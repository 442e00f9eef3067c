"""Nearest embeddings in chunks: a million images need no million x million matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import normalize

QUERIES, POOL = 2048, 16384  # rows of one matrix product: 128 MiB of similarities


class Nearest(NamedTuple):
    """Per query the greatest cosine [M] (-2 where every pool image is excluded) and its row in the pool [M]."""

    similarity: torch.Tensor
    row: torch.Tensor


def nearest(
    queries: torch.Tensor,
    pool: torch.Tensor,
    device: torch.device,
    exclude: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Nearest:
    """The nearest row of `pool` [N, D] for each row of `queries` [M, D], of any float type; results on the CPU.

    `exclude`: numbers of queries [M] and of pool rows [N]; pairs with equal numbers are left out (an image and itself,
    two images of one class). Memory: QUERIES x POOL floats on the device.
    """
    similarities, rows = [], []
    for q in range(0, len(queries), QUERIES):
        part = normalize(queries[q : q + QUERIES].to(device).float(), dim=-1)
        best = torch.full((len(part),), -2.0, device=device)
        where = torch.zeros(len(part), dtype=torch.long, device=device)
        for p in range(0, len(pool), POOL):
            cosine = part @ normalize(pool[p : p + POOL].to(device).float(), dim=-1).T
            if exclude is not None:
                own, other = exclude[0][q : q + QUERIES].to(device), exclude[1][p : p + POOL].to(device)
                cosine.masked_fill_(own[:, None] == other[None], -2.0)
            value, at = cosine.max(1)
            where = torch.where(value > best, at + p, where)
            best = torch.maximum(value, best)
        similarities.append(best.cpu())
        rows.append(where.cpu())
    if not similarities:
        return Nearest(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    return Nearest(torch.cat(similarities), torch.cat(rows))


def ranks_within(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Each value's rank among the values of its group, in (0, 1): (values below + 1/2) / values; float64 [N].

    `groups` int [N]. The smallest of a large group comes nearest to 0; a value alone in its group is in the middle.
    """
    places = torch.zeros(len(values), dtype=torch.float64)
    for group in groups.unique():
        own = values[groups == group]
        places[groups == group] = (torch.searchsorted(own.sort().values, own).double() + 0.5) / len(own)
    return places

"""The rules that choose images to label: each gives rows of a Space, in the order in which they should be labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from dhox.distill.suggesting.clusters import cluster
from dhox.distill.suggesting.space import Features, Space, chunks, squared_distances, squares

NEIGHBOURS = 20  # whose mean distance is an image's typicality, as in TypiClust
MOST_MEMBERS = 4096  # of a cluster that are looked at
NEAR = 0.02  # of the mean squared distance of two images: below it they are near-duplicates
GROUP_CHOICE = 0.25  # the most typical part of a cluster, in which groups that were chosen less often go first

Selector = Callable[[Space, int, torch.Generator], list[int]]


class Chosen:
    """The images chosen so far: their features, so that no near-duplicate follows, and how often each group stands."""

    def __init__(self, space: Space, features: Features, generator: torch.Generator) -> None:
        self.space, self.features = space, features
        self.near = NEAR * space.spread(features, generator)
        self.rows: list[int] = []
        self.seen = [features(rows) for _, rows in chunks(torch.arange(space.n_labelled))]
        self.groups = Counter(space.groups[: space.n_labelled].tolist())

    def is_near(self, rows: torch.Tensor) -> torch.Tensor:
        """Which of these rows are near-duplicates of a chosen or labelled image, bool [n]."""
        x, near = self.features(rows), torch.zeros(len(rows), dtype=torch.bool)
        for part in self.seen:
            near |= (squared_distances(x, part) < self.near).any(1)
        return near

    def add(self, row: int) -> None:
        """Choose an image."""
        self.rows.append(row)
        point = self.features(torch.tensor([row]))
        self.seen[-1:] = [torch.cat([self.seen[-1], point])] if self.seen else [point]
        self.groups[int(self.space.groups[row])] += 1

    def rarest_group(self, rows: torch.Tensor) -> int:
        """The first of these rows whose group was chosen least often."""
        return min(rows.tolist(), key=lambda row: self.groups[int(self.space.groups[row])])


def at_random(space: Space, n: int, generator: torch.Generator) -> list[int]:
    """Every image equally likely."""
    return (torch.randperm(len(space.pile), generator=generator)[:n] + space.n_labelled).tolist()


def typiclust(space: Space, n: int, generator: torch.Generator) -> list[int]:
    """The most typical image of each cluster that holds no label yet, large clusters first.

    TypiClust (Hacohen, Dekel and Weinshall 2022, arXiv 2202.02794): as many clusters as labels afterwards, typicality
    is the inverse mean distance to the nearest images of the cluster. Here in the teacher's embeddings beside the
    square roots of its probabilities.
    """
    own = cluster(space.joint, len(space), space.n_labelled + n, generator)
    sizes = own.bincount()
    labelled = own[: space.n_labelled].bincount(minlength=len(sizes))
    order = sorted(range(len(sizes)), key=lambda i: (int(labelled[i]), -int(sizes[i])))
    chosen, rest = Chosen(space, space.joint, generator), []
    of_cluster = own.argsort(stable=True).split(sizes.tolist())
    for number in order:
        members = of_cluster[number]
        members = by_typicality(space.joint, members[members >= space.n_labelled], generator)
        if len(chosen.rows) < n and len(members):
            rest += take_one(chosen, members)
    return chosen.rows + fill(chosen, torch.tensor(rest, dtype=torch.long), n - len(chosen.rows))


def by_typicality(features: Features, members: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The rows of a cluster, the most typical first; a random part of them where they are many."""
    if len(members) > MOST_MEMBERS:
        members = members[torch.randperm(len(members), generator=generator)[:MOST_MEMBERS].sort().values]
    distances = squared_distances(x := features(members), x).sqrt_()
    nearest = distances.topk(min(NEIGHBOURS + 1, len(members)), largest=False).values.sum(1)
    return members[nearest.argsort(stable=True)]


def take_one(chosen: Chosen, members: torch.Tensor) -> list[int]:
    """Choose one image of a cluster, `members` by typicality, and return the others that may still be chosen."""
    members = members[~chosen.is_near(members)]
    if not len(members):
        return []
    row = chosen.rarest_group(members[: max(1, round(GROUP_CHOICE * len(members)))])
    chosen.add(row)
    return [other for other in members.tolist() if other != row]


def fill(chosen: Chosen, rest: torch.Tensor, n: int) -> list[int]:
    """n more, where clusters were empty or had near-duplicates alone: the others in order, near-duplicates last."""
    if n <= 0:
        return []
    left = sorted({*chosen.space.pile.tolist()} - {*chosen.rows, *rest.tolist()})
    waiting = [*rest.tolist(), *left]
    found: list[int] = []
    copies: list[int] = []
    for row in waiting:
        if len(found) == n:
            break
        if bool(chosen.is_near(torch.tensor([row]))):
            copies.append(row)
            continue
        chosen.add(row)
        found.append(row)
    return [*found, *copies[: n - len(found)]]


def coreset(space: Space, n: int, generator: torch.Generator) -> list[int]:
    """k-centre greedy on embeddings (Sener and Savarese 2018): always the image farthest from all labelled ones."""
    return farthest_first(space, space.embeddings, n, generator)


def farthest_first(space: Space, features: Features, n: int, generator: torch.Generator) -> list[int]:
    """k-centre greedy from the labelled images on, or from the image nearest to the mean of all."""
    pile = space.pile
    parts = [features(rows) for _, rows in chunks(pile)]
    lengths = [squares(part) for part in parts]
    distance = torch.full((len(pile),), torch.inf)

    def nearer(points: torch.Tensor) -> None:
        for (place, _), part, length in zip(chunks(pile), parts, lengths, strict=True):
            to_points = squared_distances(part, points, length).amin(1)
            distance[place] = torch.minimum(distance[place], to_points)

    for _, rows in chunks(torch.arange(space.n_labelled)):
        nearer(features(rows))
    found: list[int] = []
    while len(found) < n:
        if not found and not space.n_labelled:
            sums = torch.stack([part.sum(0) for part in parts])
            nearer(sums.sum(0, keepdim=True) / len(pile))
            row = int(distance.argmin())
            distance.fill_(torch.inf)
        else:
            row = int(distance.argmax())
        found.append(int(pile[row]))
        nearer(features(pile[row : row + 1]))
        distance[row] = -1
    return found

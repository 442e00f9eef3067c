"""Images of the field for a student that is at work there: those it doubts, unlike what has a label."""

from __future__ import annotations

from pathlib import Path

import torch

from dhox.data.dataset import Item, read_dataset, shorten
from dhox.data.manifest import absolute_path
from dhox.distill.suggesting.space import Space, chunks, squared_distances
from dhox.errors import DhoxError
from dhox.models.classifier import load
from dhox.progress import progress_bar

KEPT = 0.75  # of the images are considered: the quarter of which the student is sure, near labelled ones, is not


def field_images(images: Path, pile: list[Item]) -> list[Item]:
    """The images of the pile that lie in `images` (a folder, a manifest, any DATA). Raises DhoxError where one of them
    is no unlabelled image of DATA: training would never see it."""
    wanted = {absolute_path(item.file) for items in read_dataset(images).values() for item in items}
    found = [item for item in pile if absolute_path(item.file) in wanted]
    if not found:
        raise DhoxError(
            f"{images} holds no unlabelled image of DATA.",
            "Put the images of the field into DATA's folder unlabelled/: training learns from all of them, labelled or "
            "not.",
        )
    return found


def top_probabilities(export: Path, items: list[Item], device: str) -> torch.Tensor:
    """The student's highest probability of each image, float32 [N]. Raises DhoxError for images it cannot read."""
    model = load(export, device=device)
    found, unread = torch.zeros(len(items)), []
    with progress_bar("Student", len(items)) as advance:
        for i, answer in enumerate(model.stream(items)):
            if answer.probs is None:
                unread.append(items[i].name)
            else:
                found[i] = float(answer.probs.max())
            advance(1)
    if unread:
        raise DhoxError(f"{len(unread)} images cannot be read: {shorten(unread)}.", "Remove them.")
    return found


def doubtful(space: Space, top: torch.Tensor, n: int) -> torch.Tensor:
    """The rows of the pile that the suggestions are taken from, at least n.

    They are the upper three quarters by the mean of two ranks: of 1 - `top` (the student's highest probability of each,
    [pile]) and of the distance to the nearest labelled image.
    """
    score = ranks(1 - top)
    if space.n_labelled:
        distance = torch.full((len(space.pile),), torch.inf)
        for place, rows in chunks(space.pile):
            x = space.embeddings(rows)
            for _, labelled in chunks(torch.arange(space.n_labelled)):
                nearer = squared_distances(x, space.embeddings(labelled)).amin(1)
                distance[place] = torch.minimum(distance[place], nearer)
        score = score + ranks(distance)
    keep = max(n, round(KEPT * len(score)))
    return score.argsort(descending=True, stable=True)[:keep].sort().values + space.n_labelled


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Each value's place among all, in [0, 1)."""
    order = torch.empty(len(values))
    order[values.argsort(stable=True)] = torch.arange(len(values)).float()
    return order / max(1, len(values))

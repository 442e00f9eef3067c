"""A teacher that learns from the labels: logistic regression on its embeddings, pulled towards the class texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional

from dhox.artefacts.adapter import ProbeHeader, StrengthFrom
from dhox.artefacts.files import write_bytes
from dhox.distill.auditing.linear_probe import FEW, folds_of
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.errors import DhoxError

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIXED_STRENGTH = 0.03
MOST_POINTS = 16384  # views that are fitted one by one; of more, the mean of an image's views
ITERATIONS = 100
MAY_LOSE = 0.005  # accuracy against zero-shot on the images that choose


@dataclass(frozen=True, eq=False)
class TextProbe:
    """Teacher logits z W^T with a learnt W [C, D] (`weight`).

    `strength`: of the pull towards scale x the class texts; infinite: W is exactly that, zero-shot. `chosen_on`:
    `validation` or `cross-validation` (the least negative log-likelihood of `n` images), or `fixed`.
    """

    weight: torch.Tensor
    strength: float
    chosen_on: StrengthFrom
    n: int
    n_labels: int

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """Teacher logits [B, C] of normalised embeddings [B, D], float32, on the device of z."""
        return z.float() @ self.weight.to(z.device).T

    def to(self, device: torch.device) -> TextProbe:
        """The same probe with its weight on a device."""
        return replace(self, weight=self.weight.to(device))

    def save(self, path: Path) -> None:
        """Write it as safetensors, its numbers as JSON in the header; atomic."""
        strength = None if self.strength == float("inf") else self.strength
        header = ProbeHeader(strength=strength, chosen_on=self.chosen_on, n=self.n)
        tensors = {"weight": self.weight.cpu().contiguous()}
        write_bytes(path, save(tensors, {"dhox": msgspec.json.encode(header).decode()}))

    def sentence(self) -> str:
        """What was fitted, and on what its strength was chosen."""
        start = f"teacher: text-anchored probe on {self.n_labels} labelled images"
        if self.strength == float("inf"):
            return f"{start} was worse than zero-shot on {self.n} images of {self.chosen_on}, so zero-shot stays"
        end = "fixed (too few labels to choose it)" if self.chosen_on == "fixed" else f"chosen by {self.chosen_on}"
        return f"{start}, strength {self.strength:g} {end}"


@dataclass(frozen=True, eq=False)
class Points:
    """Embeddings z [N, D] with class numbers [N] and the weight [N] of each in the mean."""

    z: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def only(self, chosen: torch.Tensor) -> Points:
        """Some of them, bool [N]."""
        return Points(self.z[chosen], self.labels[chosen], self.weights[chosen])


def fit_text_probe(
    labelled: torch.Tensor, labels: torch.Tensor, text: torch.Tensor, scale: float,
    validation: tuple[torch.Tensor, torch.Tensor], units: list[str],
) -> TextProbe:  # fmt: skip
    """The probe of labelled images, its strength chosen where labels allow.

    `labelled` [N, V, D]: normalised embeddings of V views of each; `labels` [N] in [0, C); `text` [C, D] normalised;
    `scale`: the teacher's. `validation`: embeddings [M, D] of whole images and their labels [M], which choose the
    strength where there are at least 50; else cross-validation does, where every class has two `units` [N] (images of
    one unit stay together); else it is fixed. A class without a labelled image keeps its text, moved as others need it.
    Raises DhoxError where there is no labelled image.
    """
    if not len(labelled):
        raise DhoxError(
            "A few-shot teacher needs labelled images, and there is none.", "Use --adapter none, or add labels."
        )
    n, views = labelled.shape[:2]
    start = scale * text.to(labelled.device).float()
    labels = labels.to(labelled.device).long()
    if n * views > MOST_POINTS:
        labelled, views = functional.normalize(labelled.float().mean(1, keepdim=True), dim=-1), 1
    z = labelled.float().flatten(0, 1)
    weights = torch.full((len(z),), 1 / views, device=z.device)
    points = Points(z, labels.repeat_interleave(views), weights)
    spread = spread_of(z) if n > 1 else 1.0
    folds = folds_of(labels.cpu().numpy(), units)
    if len(validation[1]) >= FEWEST_IMAGES:
        truth = validation[1].to(z.device).long()
        judged = [(points, Points(validation[0].to(z.device).float(), truth, torch.ones(len(truth), device=z.device)))]
        chosen_on: StrengthFrom = "validation"
    elif folds is not None:
        judged = held_out(points, np.repeat(folds, views), n)
        chosen_on = "cross-validation"
    else:
        weight = fit_weight(points, start, FIXED_STRENGTH, spread, start)
        return TextProbe(weight, FIXED_STRENGTH, "fixed", 0, n)
    strength = choose_strength(judged, start, spread)
    weight = start if strength == float("inf") else fit_weight(points, start, strength, spread, start)
    counted = len(validation[1]) if chosen_on == "validation" else n
    return TextProbe(weight, strength, chosen_on, counted, n)


def spread_of(z: torch.Tensor) -> float:
    """The root mean square distance of embeddings from their mean."""
    return float((z - z.mean(0)).square().sum(-1).mean().sqrt().clamp_min(1e-3))


def held_out(points: Points, folds: np.ndarray, n: int) -> list[tuple[Points, Points]]:
    """(those that fit, those that judge) of every fold; of the first one alone where images are many."""
    pairs = []
    for fold in np.unique(folds)[: None if n <= FEW else 1]:
        held = torch.from_numpy(folds == fold).to(points.z.device)
        pairs.append((points.only(~held), points.only(held)))
    return pairs


def fit_weight(points: Points, text: torch.Tensor, strength: float, spread: float, begin: torch.Tensor) -> torch.Tensor:
    """W [C, D] that minimises sum_i w_i CE(z_i W^T, y_i) + strength |spread (W - text)|^2, by L-BFGS from `begin`.

    `text`: scale x class texts. `spread` makes a strength mean the same for teachers whose embeddings lie close
    together and for those whose embeddings lie apart. The problem is strictly convex: the answer is unique.
    """
    weight = begin.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([weight], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")
    total = points.weights.sum()

    def cost() -> torch.Tensor:
        optimiser.zero_grad()
        entropy = functional.cross_entropy(points.z @ weight.T, points.labels, reduction="none") @ points.weights
        pull = strength * spread**2 * (weight - text).square().sum()
        loss: torch.Tensor = (entropy + pull) / total
        loss.backward()
        return loss

    closure: Callable[[], torch.Tensor] = cost
    optimiser.step(closure)
    return weight.detach()


def choose_strength(judged: list[tuple[Points, Points]], text: torch.Tensor, spread: float) -> float:
    """The strength with the least negative log-likelihood on the points that judge; infinite (zero-shot) where every
    other one is more than MAY_LOSE less accurate than zero-shot there."""
    candidates = (float("inf"), *reversed(STRENGTHS))
    right, nll = np.zeros(len(candidates)), np.zeros(len(candidates))
    for fit, judge in judged:
        weight = text
        for i, strength in enumerate(candidates):
            weight = text if i == 0 else fit_weight(fit, text, strength, spread, weight)
            logits = judge.z @ weight.T
            right[i] += float((logits.argmax(-1) == judge.labels).float() @ judge.weights)
            nll[i] += float(functional.cross_entropy(logits, judge.labels, reduction="none") @ judge.weights)
    total = sum(float(judge.weights.sum()) for _, judge in judged)
    allowed = [i for i in range(len(candidates)) if right[i] >= right[0] - MAY_LOSE * total]
    return candidates[min(allowed, key=lambda i: nll[i])]

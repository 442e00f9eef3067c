"""A linear probe on embeddings: L2-regularised logistic regression, its strength chosen by cross-validation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of |W|^2 beside the mean cross-entropy
FOLDS = 5
ITERATIONS = 200
FEW = 5000  # images, up to which every fold helps to choose the strength


@dataclass(frozen=True, eq=False)
class Probe:
    """softmax(W (z - centre) / spread + b): `weight` [C, D], `bias` [C], `centre` [D]."""

    weight: torch.Tensor
    bias: torch.Tensor
    centre: torch.Tensor
    spread: float

    def predict(self, z: torch.Tensor) -> torch.Tensor:
        """Class numbers [B] of embeddings [B, D]."""
        return (((z - self.centre) / self.spread) @ self.weight.T + self.bias).argmax(-1)


def fit_probe(
    z: torch.Tensor, labels: torch.Tensor, classes: int, strength: float, start: Probe | None = None
) -> Probe:
    """Minimise mean cross-entropy + strength |W|^2 with L-BFGS, on float32 embeddings z [N, D] and labels [N].

    The embeddings are centred and divided by the root mean square of their lengths, so that a strength means the same
    for every teacher. `start`: where to begin (the solution is unique but for a constant in the biases).
    """
    centre = z.mean(0)
    spread = float((z - centre).square().sum(-1).mean().sqrt().clamp_min(1e-6))
    x = (z - centre) / spread
    weight = torch.zeros(classes, z.shape[1], device=z.device) if start is None else start.weight.clone()
    bias = torch.zeros(classes, device=z.device) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(True), bias.requires_grad_(True)]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def cost() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(x @ weight.T + bias, labels) + strength * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(cost)
    return Probe(weight.detach(), bias.detach(), centre, spread)


def _probe_path(z: torch.Tensor, labels: torch.Tensor, classes: int) -> list[Probe]:
    """A probe per strength of STRENGTHS, from the strongest down, each begun at the last; in the order of STRENGTHS."""
    probes: list[Probe] = []
    for strength in reversed(STRENGTHS):
        probes.append(fit_probe(z, labels, classes, strength, probes[-1] if probes else None))
    return probes[::-1]


def folds_of(labels: np.ndarray, units: list[str]) -> np.ndarray | None:
    """int [N]: a cross-validation fold for each labelled image, or None where some class has fewer than 2 units.

    At most FOLDS, never more than the rarest class has units; `units`: images of one unit (camera, recording) stay
    together. Each class deals its units out in turn, so every fold holds every class where units are single images.
    """
    of_class: dict[int, set[str]] = defaultdict(set)
    for label, unit in zip(labels.tolist(), units, strict=True):
        of_class[label].add(unit)
    folds = min([FOLDS, *(len(own) for own in of_class.values())])
    return deal(labels, units, folds) if folds >= 2 else None


def deal(labels: np.ndarray, units: list[str], folds: int) -> np.ndarray:
    """int [N]: the fold of each labelled image; each class deals its units out in turn, whole units stay together."""
    by_class: dict[int, dict[str, None]] = defaultdict(dict)
    for label, unit in zip(labels.tolist(), units, strict=True):
        by_class[label][unit] = None
    fold: dict[str, int] = {}
    for of_class in by_class.values():
        for number, unit in enumerate(of_class):
            fold.setdefault(unit, number % folds)
    return np.array([fold[unit] for unit in units], int)


def choose_strength(z: torch.Tensor, labels: torch.Tensor, classes: int, folds: np.ndarray) -> float:
    """The strength with the most right answers on held-out folds, the stronger one on ties.

    All folds take their turn; with more than FEW images the first one is enough.
    """
    right = np.zeros(len(STRENGTHS), int)
    for fold in np.unique(folds)[: None if len(folds) <= FEW else 1]:
        held = torch.from_numpy(folds == fold).to(z.device)
        probes = _probe_path(z[~held], labels[~held], classes)
        right += [int((probe.predict(z[held]) == labels[held]).sum()) for probe in probes]
    return STRENGTHS[int(len(right) - 1 - right[::-1].argmax())]


def cross_validated(z: torch.Tensor, labels: torch.Tensor, classes: int, folds: np.ndarray) -> torch.Tensor:
    """Answers [N], each from a probe that saw neither the image nor chose its strength on it (nested).

    The strength of a fold's probe is chosen by cross-validation over the other folds; with two folds in all there is
    nothing left to choose on, and it is the middle of STRENGTHS.
    """
    answers = torch.zeros_like(labels)
    for fold in np.unique(folds):
        held = torch.from_numpy(folds == fold).to(z.device)
        rest = folds[folds != fold]
        strength = STRENGTHS[len(STRENGTHS) // 2]
        if len(np.unique(rest)) > 1:
            strength = choose_strength(z[~held], labels[~held], classes, rest)
        answers[held] = fit_probe(z[~held], labels[~held], classes, strength).predict(z[held])
    return answers

"""A teacher that learns from the labels: logistic regression on its embeddings, pulled towards the class texts."""

from __future__ import annotations

from collections import Counter
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
from dhox.distill.auditing.linear_probe import FEW
from dhox.distill.results.selection import FEWEST_IMAGES
from dhox.errors import DhoxError
from dhox.evidence.statistics import Z_95_ONE_SIDED, paired_lower_bound, wilson_interval

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIXED_STRENGTH = 0.03
TRUSTED = 0.75  # accuracy of zero-shot, below which it must be shown to lie before a few labels overrule it
FOLDS = 5
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
            return f"{start}: they do not mend its zero-shot answers ({self.n} images, {self.chosen_on}), which stay"
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
    strength where there are at least 50; else cross-validation does, where 50 labelled images have another one of
    their class in another unit (`units` [N]: images of one camera or recording); else it is fixed, and zero-shot stays
    unless the labelled images show (one-sided 95 % bound) that it is right for less than 75 %. A class without a
    labelled image keeps its text.
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
    chosen_on: StrengthFrom
    if len(validation[1]) >= FEWEST_IMAGES:
        truth = validation[1].to(z.device).long()
        judges = Points(validation[0].to(z.device).float(), truth, torch.ones(len(truth), device=z.device))
        judged, counted, chosen_on = [(points, judges)], len(truth), "validation"
    else:
        judged = held_out(points, folds_of_units(labels.cpu().numpy(), units).repeat(views))
        counted, chosen_on = round(sum(float(judge.weights.sum()) for _, judge in judged)), "cross-validation"
    if counted < FEWEST_IMAGES:
        right = round(float(((points.z @ start.T).argmax(-1) == points.labels).float() @ points.weights))
        weak = wilson_interval(right, n, Z_95_ONE_SIDED)[1] < TRUSTED
        strength, counted, chosen_on = FIXED_STRENGTH if weak else float("inf"), n, "fixed"
    else:
        strength = choose_strength(judged, start, spread)
    weight = start if strength == float("inf") else fit_weight(points, start, strength, spread, start)
    return TextProbe(weight, strength, chosen_on, counted, n)


def spread_of(z: torch.Tensor) -> float:
    """The root mean square distance of embeddings from their mean."""
    return float((z - z.mean(0)).square().sum(-1).mean().sqrt().clamp_min(1e-3))


def folds_of_units(labels: np.ndarray, units: list[str]) -> np.ndarray:
    """int [N]: a fold for each labelled image. Each class deals its units out in turn, from another fold on than the
    class before, so that folds are of one size where classes have one unit each."""
    fold: dict[str, int] = {}
    dealt: Counter[int] = Counter()
    for label, unit in zip(labels.tolist(), units, strict=True):
        if unit not in fold:
            fold[unit] = (dealt[label] + label) % FOLDS
            dealt[label] += 1
    return np.array([fold[unit] for unit in units])


def held_out(points: Points, folds: np.ndarray) -> list[tuple[Points, Points]]:
    """(those that fit, those of their classes that judge) of every fold; of the first one alone where they are many."""
    pairs = []
    for fold in np.unique(folds)[: None if len(folds) <= FEW else 1]:
        held = torch.from_numpy(folds == fold).to(points.z.device)
        fit = points.only(~held)
        pairs.append((fit, points.only(held & torch.isin(points.labels, fit.labels))))
    return pairs


def fit_weight(points: Points, text: torch.Tensor, strength: float, spread: float, begin: torch.Tensor) -> torch.Tensor:
    """W [C, D] that minimises sum_i w_i CE(z_i W^T, y_i) + strength |spread (W - text)|^2, by L-BFGS from `begin`.

    The cross-entropy is over the classes that have a point: the others keep their rows of `text` (scale x class texts),
    since nothing was seen that could tell them apart. `spread` makes a strength mean the same for teachers whose
    embeddings lie close together and for those whose lie apart. The problem is strictly convex: the answer is unique.
    """
    weight = begin.clone(memory_format=torch.contiguous_format).requires_grad_(True)
    optimiser = torch.optim.LBFGS([weight], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")
    total = points.weights.sum()
    absent = torch.ones(len(text), dtype=torch.bool, device=text.device).index_fill_(0, points.labels, value=False)

    def cost() -> torch.Tensor:
        optimiser.zero_grad()
        logits = (points.z @ weight.T).masked_fill(absent, -torch.inf)
        entropy = functional.cross_entropy(logits, points.labels, reduction="none") @ points.weights
        pull = strength * spread**2 * (weight - text).square().sum()
        loss: torch.Tensor = (entropy + pull) / total
        loss.backward()
        return loss

    closure: Callable[[], torch.Tensor] = cost
    optimiser.step(closure)
    return weight.detach()


def choose_strength(judged: list[tuple[Points, Points]], text: torch.Tensor, spread: float) -> float:
    """The strength with the least negative log-likelihood on the points that judge, among those that are shown to lose
    at most MAY_LOSE of zero-shot's accuracy there (one-sided 95 % bound); infinite (zero-shot) where none is."""
    candidates = (float("inf"), *reversed(STRENGTHS))
    nll, gained, lost = (np.zeros(len(candidates)) for _ in range(3))
    for fit, judge in judged:
        weight, before = text, (judge.z @ text.T).argmax(-1) == judge.labels
        for i, strength in enumerate(candidates):
            weight = text if i == 0 else fit_weight(fit, text, strength, spread, weight)
            logits = judge.z @ weight.T
            right = logits.argmax(-1) == judge.labels
            gained[i] += float((right & ~before).float() @ judge.weights)
            lost[i] += float((before & ~right).float() @ judge.weights)
            nll[i] += float(functional.cross_entropy(logits, judge.labels, reduction="none") @ judge.weights)
    n = round(sum(float(judge.weights.sum()) for _, judge in judged))
    counts = zip(gained.round().astype(int).tolist(), lost.round().astype(int).tolist(), strict=True)
    safe = [i for i, (more, less) in enumerate(counts) if i == 0 or paired_lower_bound(more, less, n) >= -MAY_LOSE]
    return candidates[min(safe, key=lambda i: nll[i])]

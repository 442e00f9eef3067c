"""One more row of a head that stays as it is: logistic regression against what the old rows answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import nn

from dhox.distill.students.kd_head import SCALE, unit

STRENGTHS = (1e-5, 1e-4, 1e-3)  # of the pull to the mean of the old rows; cross-fitting takes one
FOLDS = 5
STEPS = 150  # of L-BFGS, at most
LARGEST_SHIFT = 30.0  # of a logit: e^-30 is no probability that decides anything


@dataclass(frozen=True, eq=False)
class PlainHead:
    """A head as rows on its inputs: logits x V^T + c at temperature `temperature`, divided by it: what it answers with.

    `rows` V [C, d], `biases` c [C]. `length`: what every row's norm is (the cosine head of the paper, which has no
    bias); None where rows are free.
    """

    rows: torch.Tensor
    biases: torch.Tensor
    temperature: float
    on_unit: bool
    length: float | None

    @classmethod
    def of(cls, kind: str, head: nn.Module, temperature: float) -> PlainHead:
        """A head of one of KD_HEADS (a CE head is `linear`); float64, on the CPU."""
        weight = head.weight.detach().double().cpu()  # type: ignore[operator]
        if kind == "cosine-paper":
            rows, biases = SCALE * unit(weight), weight.new_zeros(len(weight))
        else:
            scale = SCALE if kind == "cosine-code" else 1.0
            rows, biases = scale * weight, scale * head.bias.detach().double().cpu()  # type: ignore[operator]
        length = SCALE / temperature if kind == "cosine-paper" else None
        return cls(rows / temperature, biases / temperature, temperature, kind != "linear", length)

    def inputs(self, z: torch.Tensor) -> torch.Tensor:
        """Features [N, d] to what the rows are multiplied with."""
        z = z.double().cpu()
        return unit(z) if self.on_unit else z

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs [N, d] to logits over the temperature [N, C]."""
        return F.linear(x, self.rows, self.biases)


@dataclass(frozen=True, eq=False)
class NewRow:
    """The row of a new class in the units of `PlainHead`: weight [d], bias.

    `of_new` [K] and `of_old` [N]: its logits of the new and of the old images by rows that did not see them (see
    FOLDS), with the final bias. `strength`: the one of STRENGTHS that was taken.
    """

    weight: torch.Tensor
    bias: float
    strength: float
    of_new: torch.Tensor
    of_old: torch.Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs [N, d] of images, whether each is of the new class, its weight, and what the old rows say of it.

    `offsets` [N]: log of the sum of exp of the old logits, so that row - offset is the log-odds of the new class.
    """

    x: torch.Tensor
    new: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor

    def of(self, images: torch.Tensor) -> Problem:
        """The same of some images, bool [N]; new and old ones keep their sums of weights."""
        new, weights = self.new[images], self.weights[images]
        factors = [self.weights[self.new == one].sum() / weights[new == one].sum().clamp_min(1e-12) for one in (0, 1)]
        return Problem(self.x[images], new, weights * torch.where(new, factors[1], factors[0]), self.offsets[images])


def learn_row(head: PlainHead, z_new: torch.Tensor, z_old: torch.Tensor, old_classes: torch.Tensor) -> NewRow:
    """The row of a new class from features [K, d] of its images, K >= 2, and of old images [N, d]; the old rows stay.

    The loss is the cross-entropy of the head with one more row, where an old image's target is what the head answers
    today: that leaves -log(1 - p_new) of each old image and -log(p_new) of each new one, a convex problem of d + 1
    numbers. Every class has the same weight: `old_classes` int [N]. The row is pulled to the mean of the old rows; how
    strongly, and the bias, are chosen by cross-fitting: without that K images that the row has seen would look more
    like the class than those to come.
    """
    problem, folds = _problem(head, z_new, z_old, old_classes), _folds(len(z_new), len(z_old))
    best: tuple[float, float, float, torch.Tensor] | None = None
    for strength in STRENGTHS:
        crossed = torch.zeros(len(problem.x), dtype=torch.double)
        for judge in folds:
            weight, bias = _fit(problem.of(~judge), head, strength)
            crossed[judge] = problem.x[judge] @ weight + bias
        shift = 0.0 if head.length else _best_shift(crossed - problem.offsets, problem)
        loss = float(_losses(crossed + shift - problem.offsets, problem).sum())
        if best is None or loss < best[0]:
            best = loss, strength, shift, crossed + shift
    assert best is not None
    _, strength, shift, crossed = best
    weight, bias = _fit(problem, head, strength)
    return NewRow(weight, bias + shift, strength, crossed[: len(z_new)], crossed[len(z_new) :])


def _problem(head: PlainHead, z_new: torch.Tensor, z_old: torch.Tensor, old_classes: torch.Tensor) -> Problem:
    x = torch.cat([head.inputs(z_new), head.inputs(z_old)])
    new = torch.arange(len(x)) < len(z_new)
    counts = torch.bincount(old_classes, minlength=len(head.rows)).double()
    of_old = 1 / counts[old_classes]
    weights = torch.cat([torch.full((len(z_new),), 1 / len(z_new), dtype=torch.double), of_old])
    return Problem(x, new, weights / (1 + of_old.sum()), head.logits(x).logsumexp(1))


def _folds(n_new: int, n_old: int) -> list[torch.Tensor]:
    """bool [K + N] for each fold: the images that judge. New images are divided as they are ordered, in whole pieces:
    frames of one recording stay together."""
    folds = min(FOLDS, n_new)
    parts = torch.cat([torch.arange(n_new) * folds // n_new, torch.arange(n_old) % folds])
    return [parts == fold for fold in range(folds)]


def _losses(log_odds: torch.Tensor, problem: Problem) -> torch.Tensor:
    """Weighted -log of the right answer to `new or old` [N]."""
    return problem.weights * F.softplus(torch.where(problem.new, -log_odds, log_odds))


def _fit(problem: Problem, head: PlainHead, strength: float) -> tuple[torch.Tensor, float]:
    """(weight [d], bias) of least loss."""
    centre = head.rows.mean(0)
    spread = (problem.x - problem.x.mean(0)).square().sum(1).mean()
    free = centre.clone().requires_grad_(True)
    bias = (problem.offsets - problem.x @ centre).mean(0, keepdim=True) - log(len(head.rows))
    if head.length is not None:
        free, bias = problem.x[problem.new].mean(0).requires_grad_(True), torch.zeros_like(bias)

    def weight() -> torch.Tensor:
        return free if head.length is None else head.length * unit(free)

    unknown = [free] if head.length is not None else [free, bias.requires_grad_(True)]
    optimiser = torch.optim.LBFGS(unknown, max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        log_odds = problem.x @ weight() + bias - problem.offsets
        pull = strength * spread * (weight() - centre).square().sum()
        loss = _losses(log_odds, problem).sum() + pull
        loss.backward()
        return loss

    optimiser.step(closure)
    return weight().detach(), float(bias.detach())


def _best_shift(log_odds: torch.Tensor, problem: Problem) -> float:
    """What is added to the log-odds [N] for the least loss: a convex problem of one number, by bisection."""
    low, high = -LARGEST_SHIFT, LARGEST_SHIFT
    for _ in range(60):
        middle = (low + high) / 2
        slope = problem.weights * (torch.sigmoid(log_odds + middle) - problem.new.double())
        low, high = (low, middle) if float(slope.sum()) > 0 else (middle, high)
    return (low + high) / 2


def stored_rows(kind: str, row: NewRow, head: PlainHead, shift: float) -> Iterator[tuple[str, torch.Tensor]]:
    """(parameter, its new row [1, ...] or [1]) of a head of this kind; `shift` is added to its bias, if any."""
    scale = 1.0 if kind == "linear" else SCALE
    yield "weight", (row.weight * head.temperature / scale)[None].float()
    if kind != "cosine-paper":
        yield "bias", torch.tensor([(row.bias + shift) * head.temperature / scale])

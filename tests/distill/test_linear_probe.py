from __future__ import annotations

import numpy as np
import pytest
import torch

from dhox.distill.auditing.linear_probe import STRENGTHS, choose_strength, cross_validated, fit_probe, folds_of


def clouds(n: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_a_fitted_probe_is_the_minimum_of_its_cost() -> None:
    z, labels = clouds(60, 0.5)
    probe = fit_probe(z, labels, 3, 1e-2)
    x = (z - probe.centre) / probe.spread

    def cost(weight: torch.Tensor, bias: torch.Tensor) -> float:
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
        return float(loss + 1e-2 * weight.square().sum())

    best = cost(probe.weight, probe.bias)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        step = 0.05 * torch.randn(3, 8, generator=generator)
        assert cost(probe.weight + step, probe.bias) > best
        assert cost(probe.weight, probe.bias + step[:, 0] - step[:, 0].mean()) > best


def test_scale_and_shift_of_embeddings_change_no_answer() -> None:
    z, labels = clouds(60, 0.5)
    a, b = fit_probe(z, labels, 3, 1e-3), fit_probe(100 * z + 7, labels, 3, 1e-3)
    assert torch.equal(a.predict(z), b.predict(100 * z + 7))


def test_the_strength_has_the_most_right_answers_and_ties_go_to_the_stronger() -> None:
    z, labels = clouds(90, 1.0)
    folds = folds_of(labels.numpy(), [str(i) for i in range(90)])
    assert folds is not None
    right = np.zeros(len(STRENGTHS), int)
    for fold in range(5):
        held = torch.from_numpy(folds == fold)
        for i, strength in enumerate(STRENGTHS):
            probe = fit_probe(z[~held], labels[~held], 3, strength)
            right[i] += int((probe.predict(z[held]) == labels[held]).sum())
    chosen = choose_strength(z, labels, 3, folds)
    assert right[STRENGTHS.index(chosen)] >= right.max() - 1  # one image may turn on where the solver began
    easy, labels = clouds(60, 0.05)
    assert choose_strength(easy, labels, 3, np.arange(60) // 3 % 5) == max(STRENGTHS)


def test_cross_validation_learns_nothing_from_noise_labels() -> None:
    z, _ = clouds(300, 0.5)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, 300))
    folds = folds_of(labels.numpy(), [str(i) for i in range(300)])
    assert folds is not None
    right = (cross_validated(z, labels, 3, folds) == labels).float().mean()
    assert 0.2 < right < 0.47  # a probe judged on its own training images would be well above chance
    z, labels = clouds(300, 0.2)
    assert (cross_validated(z, labels, 3, np.arange(300) // 3 % 5) == labels).float().mean() > 0.95


def test_folds_keep_units_together_and_hold_every_class() -> None:
    labels = np.repeat(np.arange(4), 12)
    units = [f"{label}-{i % 6}" for label in range(4) for i in range(12)]
    folds = folds_of(labels, units)
    assert folds is not None
    for unit in set(units):
        assert len({int(folds[i]) for i, u in enumerate(units) if u == unit}) == 1
    for fold in range(5):
        assert set(labels[folds == fold]) == set(range(4))


@pytest.mark.parametrize(("per_class", "folds"), [(1, None), (2, 2), (3, 3), (5, 5), (9, 5)])
def test_as_many_folds_as_the_rarest_class_has_images(per_class: int, folds: int | None) -> None:
    labels = np.r_[np.zeros(20, int), np.ones(per_class, int)]
    found = folds_of(labels, [str(i) for i in range(len(labels))])
    assert (None if found is None else len(set(found))) == folds

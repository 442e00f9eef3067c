from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_file import read_adapter
from few_shot_world import C, D, world
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torch.nn.functional import normalize

from dhox.distill.teachers.adapter import TipAdapter, fit_tip_adapter


def accuracy(adapter: TipAdapter, z: torch.Tensor, labels: torch.Tensor) -> float:
    return float((adapter.logits(z).argmax(-1) == labels).float().mean())


@given(seed=st.integers(0, 99), alpha=st.floats(0, 50), beta=st.floats(0.01, 50), scale=st.floats(1, 100))
def test_logits_are_the_formula_image_by_image(seed: int, alpha: float, beta: float, scale: float) -> None:
    views, labels, text = world(9, 1, seed)
    z = world(5, 1, seed + 1)[0][:, 0]
    adapter = TipAdapter(views[:, 0], labels, text, scale, alpha, beta, "fixed", 0)
    expected = np.zeros((5, C))
    for row in range(5):
        for c in range(C):
            expected[row, c] = scale * float(z[row] @ text[c])
            for key, label in zip(views[:, 0], labels, strict=True):
                if label == c:
                    expected[row, c] += alpha * np.exp(-beta * (1 - float(z[row] @ key)))
    assert np.allclose(adapter.logits(z).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_without_weight_the_memory_changes_nothing() -> None:
    views, labels, text = world(12, 2, 0)
    adapter = TipAdapter(views[:, 0], labels, text, 13.0, 0.0, 2.0, "fixed", 0)
    z = world(20, 1, 1)[0][:, 0]
    assert torch.equal(adapter.logits(z), 13.0 * z @ text.T)


def test_keys_are_the_normalised_means_of_the_views() -> None:
    views, labels, text = world(12, 5, 0)
    adapter = fit_tip_adapter(views.half(), labels, text, 13.0, None, train_keys=False, seed=0)
    assert torch.allclose(adapter.keys, normalize(views.half().float().mean(1), dim=-1), atol=1e-6)
    assert torch.equal(adapter.values, labels)
    assert adapter.chosen_on == "fixed"


@pytest.mark.parametrize("train_keys", [False, True])
def test_labels_mend_what_the_prompts_miss(train_keys: bool) -> None:
    views, labels, text = world(32, 4, 0)
    z, truth = world(400, 1, 1)[0][:, 0], world(400, 1, 1)[1]
    zero_shot = float(((z @ text.T).argmax(-1) == truth).float().mean())
    validation = (z[::2], truth[::2])
    adapter = fit_tip_adapter(views, labels, text, 13.0, validation, train_keys=train_keys, seed=0)
    assert (adapter.chosen_on, adapter.n) == ("validation", 200)
    assert accuracy(adapter, z[1::2], truth[1::2]) > zero_shot + 0.02


def test_training_the_keys_does_not_lower_training_accuracy_and_lowers_its_loss() -> None:
    for seed in range(5):
        views, labels, text = world(40, 4, seed, noise=1.5)
        tip, tip_f = (
            fit_tip_adapter(views, labels, text, 13.0, None, train_keys=train, seed=0) for train in (False, True)
        )
        z, repeated = views.flatten(0, 1), labels.repeat_interleave(4)
        assert accuracy(tip_f, z, repeated) >= accuracy(tip, z, repeated)
        loss = [float(torch.nn.functional.cross_entropy(a.logits(z), repeated)) for a in (tip_f, tip)]
        assert loss[0] < loss[1]
        assert (tip_f.alpha, tip_f.beta) == (tip.alpha, tip.beta)


def test_same_seed_same_keys_other_seed_other_keys() -> None:
    views, labels, text = world(20, 4, 0)
    a, b, c = (fit_tip_adapter(views, labels, text, 13.0, None, train_keys=True, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.keys, b.keys)
    assert not torch.equal(a.keys, c.keys)


def test_forty_nine_validation_images_search_nothing_and_fifty_do() -> None:
    views, labels, text = world(20, 2, 0)
    z, truth = world(50, 1, 1)[0][:, 0], world(50, 1, 1)[1]
    few = fit_tip_adapter(views, labels, text, 13.0, (z[:49], truth[:49]), train_keys=False, seed=0)
    none = fit_tip_adapter(views, labels, text, 13.0, None, train_keys=False, seed=0)
    assert (few.chosen_on, few.n, few.alpha, few.beta) == ("fixed", 49, none.alpha, none.beta)
    assert fit_tip_adapter(views, labels, text, 13.0, (z, truth), train_keys=False, seed=0).chosen_on == "validation"


def test_a_teacher_of_larger_scale_gets_the_same_answers_from_a_larger_alpha() -> None:
    views, labels, text = world(20, 2, 0)
    z = world(60, 1, 1)[0][:, 0]
    small, large = (fit_tip_adapter(views, labels, text, scale, None, train_keys=False, seed=0) for scale in (10, 100))
    assert large.alpha == pytest.approx(10 * small.alpha, rel=1e-4)
    assert large.beta == small.beta
    assert torch.equal(large.logits(z).argmax(-1), small.logits(z).argmax(-1))


def test_an_adapter_survives_its_file(tmp_path: Path) -> None:
    views, labels, text = world(20, 2, 0)
    adapter = fit_tip_adapter(views, labels, text, 13.0, None, train_keys=True, seed=0)
    adapter.save(tmp_path / "adapter.safetensors")
    again = read_adapter(tmp_path / "adapter.safetensors")
    z = world(10, 1, 3)[0][:, 0]
    assert torch.equal(again.logits(z), adapter.logits(z))
    assert (again.chosen_on, again.n, again.alpha) == (adapter.chosen_on, adapter.n, adapter.alpha)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "adapter.safetensors").read_bytes()


def test_no_label_no_adapter() -> None:
    with refuses(at="distill.teachers.adapter.fit_tip_adapter", fix="--adapter none"):
        fit_tip_adapter(torch.zeros(0, 2, D), torch.zeros(0), torch.zeros(C, D), 1.0, None, train_keys=False, seed=0)


@pytest.mark.gpu
def test_adapters_run_on_cuda_as_on_the_cpu() -> None:
    views, labels, text = world(20, 2, 0)
    z = world(10, 1, 3)[0][:, 0]
    here = fit_tip_adapter(views, labels, text, 13.0, None, train_keys=True, seed=0)
    there = fit_tip_adapter(views.cuda(), labels, text, 13.0, None, train_keys=True, seed=0)
    assert torch.allclose(there.logits(z.cuda()).cpu(), here.logits(z), atol=1e-2)
    assert torch.allclose(here.to(torch.device("cuda")).logits(z.cuda()).cpu(), here.logits(z), atol=1e-2)

"""The text-anchored probe: the optimum it claims, who chooses its strength, and that it never harms."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from few_shot_world import C, D, world
from hypothesis import given
from hypothesis import strategies as st
from quick_distill import quick
from refusals import refuses
from safetensors import safe_open
from torch.nn.functional import cross_entropy, normalize

from dhox.artefacts.adapter import ProbeHeader
from dhox.distill.teachers.adapter import ADAPTER_FILE
from dhox.distill.teachers.text_probe import FIXED_STRENGTH, Points, TextProbe, fit_text_probe, fit_weight, spread_of

NOTHING = (torch.zeros(0, D), torch.zeros(0, dtype=torch.long))


def units(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def right(probe: TextProbe, z: torch.Tensor, labels: torch.Tensor) -> float:
    return float((probe.logits(z).argmax(-1) == labels).float().mean())


@given(seed=st.integers(0, 50), strength=st.floats(0.01, 3), scale=st.floats(1, 50))
def test_the_weight_is_where_the_gradient_of_the_formula_vanishes(seed: int, strength: float, scale: float) -> None:
    views, labels, text = world(12, 1, seed)
    z, start = views[:, 0], scale * text
    points = Points(z, labels, torch.ones(12))
    weight = fit_weight(points, start, strength, 2.0, start).double().requires_grad_(True)
    entropy = cross_entropy(z.double() @ weight.T, labels, reduction="sum")
    (entropy + strength * 4 * (weight - start.double()).square().sum()).backward()
    assert weight.grad is not None
    assert float(weight.grad.norm()) < 0.02 * 12


def test_a_strong_pull_is_zero_shot_and_a_weak_one_fits_the_labels() -> None:
    views, labels, text = world(16, 1, 3, noise=2.0)
    points, start = Points(views[:, 0], labels, torch.ones(16)), 10 * text
    strong = fit_weight(points, start, 1e6, 1.0, start)
    assert torch.allclose(strong, start, atol=1e-3)
    weak = fit_weight(points, start, 1e-4, 1.0, start)
    assert torch.equal((views[:, 0] @ weak.T).argmax(-1), labels)


@pytest.mark.parametrize(("per_class", "chosen_on"), [(2, "fixed"), (16, "cross-validation")])
def test_labels_mend_what_the_prompts_miss_at_any_number_of_shots(per_class: int, chosen_on: str) -> None:
    views, labels, text = world(per_class * C, 4, 0, noise=1.5)
    wrong = text.roll(1, 0) + 0.9 * text  # prompts that name the next class nearly as well
    z, truth, _ = world(400, 1, 1, noise=1.5)
    probe = fit_text_probe(views, labels, normalize(wrong, dim=-1), 13.0, NOTHING, units(len(labels)))
    assert probe.chosen_on == chosen_on
    assert (probe.strength == FIXED_STRENGTH) == (per_class == 2)
    zero_shot = float(((z[:, 0] @ wrong.T).argmax(-1) == truth).float().mean())
    assert right(probe, z[:, 0], truth) > zero_shot + 0.1


def test_a_teacher_that_is_right_is_not_overruled_by_few_labels() -> None:
    views, labels, text = world(C, 1, 0, noise=0.1)
    probe = fit_text_probe(views, labels, text, 13.0, NOTHING, units(C))
    assert (probe.strength, probe.chosen_on) == (float("inf"), "fixed")
    assert torch.equal(probe.weight, 13.0 * text)
    assert "which stay" in probe.sentence()


def test_validation_chooses_where_it_has_fifty_images() -> None:
    views, labels, text = world(8, 2, 0)
    z, truth, _ = world(50, 1, 1)
    assert fit_text_probe(views, labels, text, 13.0, (z[:, 0], truth), units(8)).chosen_on == "validation"
    assert fit_text_probe(views, labels, text, 13.0, (z[:49, 0], truth[:49]), units(8)).chosen_on == "fixed"
    labelled = [world(n, 2, 0) for n in (49, 50)]
    found = [fit_text_probe(v, y, text, 13.0, NOTHING, units(len(y))) for v, y, _ in labelled]
    assert [(one.chosen_on, one.n) for one in found] == [("fixed", 49), ("cross-validation", 50)]


def test_labels_that_contradict_the_teacher_leave_zero_shot_alone() -> None:
    _, _, text = world(4, 1, 0)
    generator = torch.Generator().manual_seed(0)
    z = normalize(text[torch.arange(200) % C] + 0.05 * torch.randn(200, D, generator=generator), dim=-1)
    noise = torch.randint(C, (40,), generator=generator)
    truth = torch.arange(200) % C
    probe = fit_text_probe(z[:40, None], noise, text, 13.0, (z[40:], truth[40:]), units(40))
    zero_shot = float(((z[40:] @ text.T).argmax(-1) == truth[40:]).float().mean())
    assert right(probe, z[40:], truth[40:]) >= zero_shot - 0.005


def test_views_count_as_one_image_and_units_stay_together() -> None:
    views, labels, text = world(12, 1, 0)
    once = fit_text_probe(views, labels, text, 13.0, NOTHING, units(12))
    twice = fit_text_probe(views.repeat(1, 3, 1), labels, text, 13.0, NOTHING, units(12))
    assert torch.allclose(once.weight, twice.weight, atol=2e-2)
    one_recording = fit_text_probe(views, labels, text, 13.0, NOTHING, ["r"] * 12)
    assert one_recording.chosen_on == "fixed"


def test_a_class_without_a_label_keeps_its_place() -> None:
    views, labels, text = world(12, 1, 0)
    text = text.roll(1, 0)  # zero-shot is wrong, so that the probe is fitted
    some = labels != 3
    probe = fit_text_probe(views[some], labels[some], text, 13.0, NOTHING, units(int(some.sum())))
    assert torch.equal(probe.weight[3], 13.0 * text[3])


def test_no_label_is_refused() -> None:
    with refuses("labelled", at="distill.teachers.text_probe.fit_text_probe", fix="--adapter none"):
        fit_text_probe(torch.zeros(0, 1, D), torch.zeros(0, dtype=torch.long), torch.eye(D)[:C], 1.0, NOTHING, [])


def test_spread_is_the_root_mean_square_distance_from_the_mean() -> None:
    assert spread_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(1.0)


def test_a_training_fits_uses_and_keeps_it(line: Path) -> None:
    run = quick(line / "data", shots=4, adapter="probe")
    with safe_open(Path("runs/x") / ADAPTER_FILE, "pt") as file:
        header = msgspec.json.decode(file.metadata()["dhox"], type=ProbeHeader)
        weight = file.get_tensor("weight")
    assert (weight.shape, header.chosen_on, header.n) == ((4, 64), "validation", 80)
    assert run.summary.teacher.adapter == "probe"
    assert any("text-anchored probe on 16 labelled images" in note for note in run.summary.notes)
    plain = quick(line / "data", "runs/y", shots=4)
    calibrations = [result.summary.teacher.calibration for result in (run, plain)]
    assert calibrations[0].accuracy >= calibrations[1].accuracy - 0.005

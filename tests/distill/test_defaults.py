"""What is trained where an option is left out, and that what is given stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_distill import quick
from refusals import refuses

from dhox.distill.defaults import adapter_of, learning_rate_of, recipe_sentence
from dhox.distill.options import DistillOptions, Training, check
from dhox.distill.training.steps import BATCH_SIZES, EPOCH_STEPS, BatchSizes, Steps, batch_sizes, steps_per_epoch
from dhox.errors import UsageError
from dhox.evidence.learning_curve import DOUBLING, FEWEST_EPOCHS, slope_at_the_end
from dhox.options.declare import build
from dhox.options.recipe import read_recipe
from dhox.reports.pages.curves import slope_sentence


def options(**values: object) -> DistillOptions:
    return build(DistillOptions, **values)


def test_a_probe_wherever_labels_train_beside_the_teachers_embeddings() -> None:
    assert [adapter_of(options(method=method)) for method in ("dho", "sho", "ce", "kd")] == [
        "probe", "probe", "none", "none",
    ]  # fmt: skip
    assert adapter_of(options(teacher_logits="z.npy")) == "none"
    assert adapter_of(options(online_teacher=True)) == "none"
    assert [adapter_of(options(adapter=adapter)) for adapter in ("none", "tip")] == ["none", "tip"]


def test_the_learning_rate_goes_by_where_the_student_starts() -> None:
    fresh, trained = learning_rate_of(options(student_weights="none")), learning_rate_of(options())
    assert (fresh, trained) == (3e-3, 1e-3)
    assert learning_rate_of(options(student_weights="none", init_from="runs/x")) == trained
    assert learning_rate_of(options(student_weights="none", learning_rate=0.5)) == 0.5


@given(n=st.integers(1, 10**6), over_labelled=st.booleans())
def test_batches_are_the_largest_that_give_an_epoch_its_steps(n: int, over_labelled: bool) -> None:
    sizes = batch_sizes(Training(), n, over_labelled)
    larger = BATCH_SIZES[: BATCH_SIZES.index(sizes)]
    assert all(n < EPOCH_STEPS * one[not over_labelled] for one in larger)
    assert sizes == BATCH_SIZES[-1] or steps_per_epoch(n, sizes[not over_labelled]) >= EPOCH_STEPS


@pytest.mark.parametrize(("n", "sizes"), [(6143, (16, 48)), (6144, (32, 96)), (12287, (32, 96)), (12288, (64, 192))])
def test_both_sides_of_each_batch_size(n: int, sizes: tuple[int, int]) -> None:
    assert batch_sizes(Training(), n, over_labelled=False) == BatchSizes(*sizes)


def test_a_given_batch_size_stays_and_the_other_is_the_papers() -> None:
    assert batch_sizes(Training(batch_labelled=8), 10, over_labelled=False) == BatchSizes(8, 192)
    assert batch_sizes(Training(batch_unlabelled=8), 10, over_labelled=False) == BatchSizes(64, 8)


def test_a_run_says_its_recipe_and_does_it(line: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = {"batch_labelled": None, "batch_unlabelled": None}
    run = quick(line / "data", shots=4, **sizes).summary
    recipe = next(text for text in capfd.readouterr().out.splitlines() if text.startswith("Recipe: dho"))
    for part in (
        "learns from the labels",
        "temperature 1",
        "0.003 (the student starts from random",
        "16 + 48",
        "smaller batches",
    ):
        assert part in recipe
    assert run.teacher.adapter == "probe"
    assert (run.training.learning_rate, run.training.batch_labelled, run.training.batch_unlabelled) == (3e-3, 16, 48)
    assert (run.settings["adapter"], run.settings["learning_rate"]) == ("probe", 3e-3)


def test_the_recipe_of_the_paper_is_its_own(line: Path) -> None:
    values = read_recipe(Path("dho-paper"), DistillOptions)
    paper = options(**values, shots=4)
    check(paper)
    assert (adapter_of(paper), learning_rate_of(paper)) == ("none", 1e-3)
    assert batch_sizes(paper.training, 80, over_labelled=True) == BatchSizes(64, 64)
    Path("dho-paper").write_text("epochs = 7\n")  # a file of that name is the user's
    assert read_recipe(Path("dho-paper"), DistillOptions) == {"epochs": 7}
    Path("dho-paper").unlink()
    run = quick(line / "data", recipe="dho-paper", shots=4).summary
    assert (run.teacher.adapter, run.training.schedule) == ("none", "linear")
    assert run.settings["teacher_temperature"] == 2.0


def test_steps_are_the_epochs_that_hold_them(line: Path) -> None:
    run = quick(line / "data", shots=4, epochs=None, steps=4).summary
    assert (run.training.epochs, run.training.epoch_steps) == (2, 3)  # 80 images by 32
    with refuses("--steps", "--epochs", at="distill.options.check", fix="one", kind=UsageError):
        check(options(steps=4, epochs=4))


def test_a_recipe_says_what_was_asked() -> None:
    steps = Steps(30, 20, 64, 192, 8)
    asked = recipe_sentence(options(adapter="none", learning_rate=1e-3), steps)
    assert "a zero-shot teacher as asked" in asked
    assert "0.001 (as asked)" in asked
    assert "smaller" not in asked
    assert "teacher" not in recipe_sentence(options(method="ce"), steps)


def test_a_curve_that_rises_by_a_point_per_doubling_has_that_slope() -> None:
    epochs = np.arange(1, 33)
    slope = slope_at_the_end([0.2 + 0.01 * float(np.log2(epoch)) for epoch in epochs])
    assert slope.points == pytest.approx(1.0)
    assert slope.rising
    assert slope.twice == pytest.approx(DOUBLING)
    assert "--steps 640" in slope_sentence(slope, 320)


@given(st.integers(0, 10**6))
def test_scatter_alone_seldom_counts_as_a_rise(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0.5, 0.01, (40, 20))
    slopes = [slope_at_the_end(row.tolist()) for row in noise]
    assert np.mean([slope.rising for slope in slopes]) < 0.2  # 2.5 % are expected
    assert all(slope.interval[0] <= slope.points <= slope.interval[1] for slope in slopes)


def test_few_epochs_have_no_slope() -> None:
    assert slope_at_the_end([0.1] * (FEWEST_EPOCHS - 1)) is None
    flat = slope_at_the_end([0.1] * FEWEST_EPOCHS)
    assert not flat.rising
    assert "no more than" in slope_sentence(flat, 100)

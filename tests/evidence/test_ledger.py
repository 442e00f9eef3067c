from __future__ import annotations

from fractions import Fraction
from math import comb, erfc, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from dhox.artefacts.ledger import Ledger, Loss, StageRow
from dhox.errors import GateFailedError
from dhox.evidence.ledger import losses, make_ledger, stage_row, top_k_accuracy
from dhox.evidence.statistics import mcnemar_p, paired_lower_bound
from dhox.export.accuracy_gate import check_accuracy_drop, check_enough_images

LABELS = np.arange(40) % 4


def answering(wrong: int, classes: int = 4) -> np.ndarray:
    """Probs that are wrong on the first `wrong` images."""
    answer = np.where(np.arange(40) < wrong, (LABELS + 1) % 4, LABELS)
    return np.eye(classes)[answer] * 0.8 + 0.2 / classes


def content(*stages: tuple[str, np.ndarray]) -> Ledger:
    return make_ledger(dict(stages), [f"{i}.png" for i in range(40)], LABELS, "real images")


def test_rows_compare_each_stage_with_the_one_before() -> None:
    found = content(("torch", answering(4)), ("onnx_fp32", answering(4)), ("onnx_int8", answering(14)))
    first, second, third = found.rows
    assert first.agreement is None
    assert (second.agreement, second.gained, second.lost, second.mcnemar_p) == (1, 0, 0, 1)
    assert (third.agreement, third.gained, third.lost) == (0.75, 0, 10)
    assert third.mcnemar_p == pytest.approx(2 / 2**10)
    assert third.largest_difference == pytest.approx(0.8)
    assert found.losses == [Loss("onnx_int8", -25, third.mcnemar_p, True)]
    assert found.predictions["onnx_int8"] == answering(14).argmax(-1).tolist()


def test_a_loss_beyond_chance_is_named_before_an_earlier_one_within_chance() -> None:
    found = content(("torch", answering(4)), ("onnx_fp16", answering(5)), ("onnx_int8", answering(20)))
    assert [loss.stage for loss in found.losses] == ["onnx_int8"]
    found = content(("torch", answering(4)), ("onnx_fp16", answering(5)), ("onnx_int8", answering(6)))
    assert [(loss.stage, loss.beyond_chance) for loss in found.losses] == [("onnx_fp16", False)]
    found = content(("teacher", answering(0)), ("torch", answering(10)), ("onnx_int8", answering(20)))
    assert [loss.stage for loss in found.losses] == ["onnx_int8"]  # a student below its teacher has lost nothing here
    found = content(("trained", answering(0)), ("torch", answering(10)), ("onnx_int8", answering(20)))
    assert [loss.stage for loss in found.losses] == ["torch", "onnx_int8"]
    assert content(("torch", answering(4)), ("onnx_fp16", answering(3))).losses == []
    assert losses([]) == []


def test_without_labels_there_are_no_rows() -> None:
    found = make_ledger({"torch": answering(0)}, ["a"], None, "images")
    assert found.rows == []
    check_accuracy_drop(found, "torch", 1.0)


def test_the_drop_gate_has_two_sides() -> None:
    found = content(("torch", answering(4)), ("folded_torch", answering(6)), ("onnx_fp32", answering(6)))
    bound = -100 * paired_lower_bound(0, 2, 40)
    assert bound == pytest.approx(11.44, abs=0.01)
    check_accuracy_drop(found, "torch", bound)
    with refuses(
        "onnx_fp32", "5.00", "11.44", 40, 11.43, "folded_torch", at="export.accuracy_gate.check_accuracy_drop",
        kind=GateFailedError,
    ):  # fmt: skip
        check_accuracy_drop(found, "torch", 11.43)
    found = content(("torch", answering(4)), ("onnx_fp32", answering(4)))
    with refuses("onnx_fp32", "0.00", at="export.accuracy_gate.check_accuracy_drop", kind=GateFailedError):
        check_accuracy_drop(found, "torch", 3.0)


def test_one_image_lost_of_a_hundred_is_more_than_a_point_by_the_bound() -> None:
    assert -100 * paired_lower_bound(0, 1, 100) == pytest.approx(3.26, abs=0.01)
    for n, allowed in ((81, 2.0), (163, 1.0)):
        check_enough_images(n, allowed, "it loses at most so much", "judge.")
        with refuses(n - 1, at="export.accuracy_gate.check_enough_images", fix=str(n), kind=GateFailedError):
            check_enough_images(n - 1, allowed, "it loses at most so much", "judge.")


def test_answers_that_are_not_finite_have_no_calibration() -> None:
    row = stage_row(StageRow, answering(4) * np.nan, LABELS, answering(4), stage="torch")
    assert (row.calibration_error, row.largest_difference, row.correct) == (None, None, 10)


def test_top_five() -> None:
    rng = np.random.default_rng(0)
    probs, labels = rng.random((200, 10)), rng.integers(0, 10, 200)
    ranked = np.argsort(-probs, axis=-1)[:, :5]
    assert top_k_accuracy(probs, labels, 5) == np.mean(
        [label in row for label, row in zip(labels, ranked, strict=True)]
    )
    assert top_k_accuracy(probs[:, :5], labels % 5, 5) is None
    assert top_k_accuracy(probs[:, :6], labels % 6, 5) is not None


def test_mcnemar_of_known_tables() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(0, 5) == pytest.approx(0.0625)
    assert mcnemar_p(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar_p(700, 900) < 1e-5


@pytest.mark.parametrize(("gained", "lost"), [(3, 4), (40, 60), (500, 540), (0, 1000)])
def test_mcnemar_is_the_sum_of_binomials(gained: int, lost: int) -> None:
    n = gained + lost
    exact = Fraction(2 * sum(comb(n, k) for k in range(min(gained, lost) + 1)), 2**n)
    assert mcnemar_p(gained, lost) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("lost", [500_500, 501_000, 502_000])
def test_mcnemar_of_a_million_images_is_the_normal_tail(lost: int) -> None:
    gained = 1_000_000 - lost
    with_continuity = (lost - gained - 1) / sqrt(lost + gained)
    assert mcnemar_p(gained, lost) == pytest.approx(erfc(with_continuity / sqrt(2)), rel=1e-3)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_symmetric_and_a_probability(gained: int, lost: int) -> None:
    assert 0 < mcnemar_p(gained, lost) == mcnemar_p(lost, gained) <= 1
    if lost > gained:
        assert mcnemar_p(gained, lost + 1) <= mcnemar_p(gained, lost)

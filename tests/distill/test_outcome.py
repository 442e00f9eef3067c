from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dhox.artefacts.logits import Logits
from dhox.distill.results import outcome
from dhox.distill.results.outcome import FOLLOWS_ONE_HEAD, heads_sentence, label_free, select
from dhox.distill.results.validation_parts import selecting_half
from dhox.evidence.dho_inference import dho_probs
from dhox.evidence.statistics import paired_difference_lower_bound
from dhox.reports.pages.selection import label_free_sentence, selection_sentence


def validation(n: int, ce_right: float, kd_right: float, seed: int = 0, ce_size: float = 3.0) -> Logits:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    heads = []
    for right, size in ((ce_right, ce_size), (kd_right, 3.0)):
        logits = random.normal(0, 1, (n, 4))
        logits[np.arange(n), np.where(random.random(n) < right, labels, random.integers(0, 4, n))] += size
        heads.append(logits.astype(np.float32))
    names = np.array([f"val/{seed}/{i}.png" for i in range(n)], np.str_)
    return Logits(ce_logits=heads[0], kd_logits=heads[1], labels=labels, names=names)


def unlabelled(ce: np.ndarray, kd: np.ndarray, teacher: np.ndarray | None = None) -> Logits:
    return replace(
        validation(0, 1, 1), unlabelled_ce_logits=ce, unlabelled_kd_logits=kd, unlabelled_teacher_predictions=teacher
    )


def test_the_evidence_is_of_images_that_did_not_choose() -> None:
    val = validation(2000, 0.9, 0.3, ce_size=1.0)
    selection = select(val, "val", two_heads=True, metric="accuracy")
    evidence = selection.evidence
    gate = ~selecting_half(val)
    assert (evidence.images, evidence.chosen.n) == ("gate-half", gate.sum())
    rights = [
        dho_probs(val.ce_logits[gate], val.kd_logits[gate], a, b).argmax(-1) == val.labels[gate]
        for a, b in ((selection.alpha, selection.beta), (0.4, 0.5))
    ]
    assert [evidence.chosen.correct, evidence.fixed.correct] == [right.sum() for right in rights]
    assert evidence.lower_bound == pytest.approx(100 * paired_difference_lower_bound(*rights))
    assert evidence.distinguishable
    assert "better than the fixed (0.4, 0.5)" in selection_sentence(selection, "dho")


def test_heads_that_leave_nothing_to_choose_are_not_distinguishable_from_fixed() -> None:
    found, kept = 0, []
    for seed in range(10):
        selection = select(validation(200, 0.5, 0.5, seed), "val", two_heads=True, metric="accuracy")
        evidence, said = selection.evidence, selection_sentence(selection, "dho")
        assert (evidence.images, evidence.chosen.n) == ("cross-fitted", 200)
        found += evidence.distinguishable
        kept.append(selection.kept_fixed)
        assert selection.kept_fixed == (evidence.difference < 0)
        assert selection.searched != selection.kept_fixed
        assert selection.n_selection_labels == 200
        if selection.kept_fixed:  # the evidence is against the choice
            assert (selection.alpha, selection.beta, selection.grid) == (0.4, 0.5, None)
            assert said.startswith("fixed at (0.4, 0.5), since what the search chose is worse")
        elif not evidence.distinguishable:
            assert "not distinguishable from the fixed (0.4, 0.5)" in said
    assert found <= 2  # a one-sided 95 % bound
    assert {True, False} == set(kept)
    by_recall = select(validation(200, 0.5, 0.5, 9), "val", two_heads=True, metric="balanced")
    assert by_recall.searched  # the evidence is of accuracy


def test_given_alpha_and_beta_are_stored_and_judged_on_all_of_validation() -> None:
    selection = select(validation(300, 0.9, 0.3), "val", two_heads=True, metric="accuracy", fixed=(0.9, 1.5))
    assert (selection.alpha, selection.beta, selection.source) == (0.9, 1.5, "given")
    assert (selection.searched, selection.n_selection_labels, selection.grid) == (False, 0, None)
    assert (selection.evidence.images, selection.evidence.chosen.n) == ("validation", 300)
    assert selection_sentence(selection, "dho").startswith("(0.9, 1.5), given; better than the fixed")


@pytest.mark.parametrize(("n", "searched"), [(0, False), (49, False), (50, True)])
def test_few_labels_keep_the_fixed_point_without_a_difference(n: int, searched: bool) -> None:
    selection = select(validation(n, 0.9, 0.3), "none" if n == 0 else "val", two_heads=True, metric="accuracy")
    assert selection.searched is searched
    assert (selection.evidence is None) == (n in {0, 50})
    if 0 < n < 50:
        assert selection.evidence.difference == 0
        assert selection_sentence(selection, "dho") == (
            "fixed at (0.4, 0.5): 49 validation labels, and searching needs 50"
        )
    assert select(validation(60, 0.9, 0.3), "val", two_heads=False, metric="accuracy").evidence is None


@pytest.mark.parametrize("n", [50, 55, 61])
def test_a_choice_that_four_folds_could_not_repeat_has_no_evidence_and_says_so(n: int) -> None:
    selection = select(validation(n, 0.9, 0.3), "val", two_heads=True, metric="accuracy")
    assert selection.searched
    assert selection.evidence is None
    assert "not known" in selection_sentence(selection, "dho")


def test_cameras_that_chose_do_not_judge() -> None:
    val = validation(2000, 0.9, 0.3, ce_size=1.0)
    val = replace(val, groups=np.array([f"camera {i % 100}" for i in range(2000)]))
    evidence = select(val, "val", two_heads=True, metric="accuracy").evidence
    assert evidence.images == "gate-half"
    assert evidence.chosen.n == 1000


def test_a_saturated_head_is_said_to_rule_the_mixture() -> None:
    val = validation(400, 0.5, 0.5)
    check = label_free(unlabelled(100 * val.ce_logits, val.kd_logits), 0.6, 0.5)
    assert check is not None
    assert check.follows_where_heads_disagree.ce_head == 1
    assert [text.split(":")[0] for text in check.warnings] == [
        "the mixture is the CE head in disguise", "the CE head is saturated",
    ]  # fmt: skip
    assert f"on {check.n} unlabelled images" in label_free_sentence(check)


def test_a_flat_kd_head_is_no_mixture_and_two_equal_heads_are_no_matter() -> None:
    val = validation(400, 0.5, 0.5)
    check = label_free(unlabelled(val.ce_logits, 1e-6 * val.kd_logits), 0.4, 0.5)
    assert check is not None
    assert "the mixture is the CE head in disguise" in check.warnings[0]
    same = label_free(unlabelled(val.ce_logits, val.ce_logits), 0.4, 1.0)
    assert same is not None
    assert (same.heads_agree, same.follows_where_heads_disagree.ce_head, same.warnings) == (1.0, None, [])


def test_balanced_heads_pass_without_a_warning_and_shares_are_shares() -> None:
    val = validation(400, 0.5, 0.5)
    teacher = val.kd_logits.argmax(-1)
    check = label_free(unlabelled(val.ce_logits, val.kd_logits, teacher), 0.5, 1.0)
    assert check is not None
    assert check.warnings == []
    assert check.dho_agrees_with.teacher == check.dho_agrees_with.kd_head
    ce, kd = (logits.argmax(-1) for logits in (val.ce_logits, val.kd_logits))
    mixture = dho_probs(val.ce_logits, val.kd_logits, 0.5, 1.0).argmax(-1)
    assert check.heads_agree == pytest.approx((ce == kd).mean())
    assert check.dho_agrees_with.ce_head == pytest.approx((mixture == ce).mean())
    follows = check.follows_where_heads_disagree
    assert max(follows.ce_head, follows.kd_head) <= FOLLOWS_ONE_HEAD
    assert f"the teacher on {100 * (mixture == kd).mean():.1f} %" in label_free_sentence(check)


def test_no_unlabelled_logits_no_check() -> None:
    assert label_free(validation(3, 1, 1), 0.4, 0.5) is None
    assert label_free(unlabelled(np.zeros((0, 4)), np.zeros((0, 4))), 0.4, 0.5) is None


def test_rows_of_test_name_every_stage_once() -> None:
    test = replace(validation(100, 0.9, 0.5), teacher_predictions=np.zeros(100, int))
    rows = outcome.test_rows(test, select(test, "val", True, "accuracy", fixed=(1.0, 1.0)), two_heads=True)
    assert [row.stage for row in rows] == ["teacher", "ce_head", "kd_head", "dho_fixed", "dho"]
    assert rows[4].correct == rows[1].correct
    assert rows[0].correct == 25


def test_two_heads_that_are_not_shown_to_beat_one_are_told_so() -> None:
    alike = validation(400, 0.0, 0.8)
    told = heads_sentence(alike, select(alike, "val", two_heads=True, metric="accuracy"))
    assert told is not None
    assert "KD head alone on 400" in told
    apart = validation(4000, 0.6, 0.6)
    assert heads_sentence(apart, select(apart, "val", two_heads=True, metric="accuracy")) is None
    few = validation(49, 0.0, 0.8)
    assert heads_sentence(few, select(few, "val", two_heads=True, metric="accuracy")) is None

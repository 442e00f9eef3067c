"""What both heads' logits come to: the content of selection.json and the rows of test, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.distill.results.selection import (
    ALPHAS,
    BETAS,
    FEWEST_IMAGES,
    FOLDS,
    Selection,
    choose_alpha_beta,
    fold_of,
    selecting_half,
)
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA, dho_probs
from dhox.evidence.statistics import accuracy_row, paired_difference_lower_bound


def select(
    val: dict[str, np.ndarray],
    source: str,
    two_heads: bool,
    metric: str,
    fixed: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Choose alpha and beta on the selecting part of validation; the content of selection.json.

    `val`: ce_logits, kd_logits [N, C], labels and names [N]. `source`: where validation comes from, val, held-out or
    none. `fixed`: (alpha, beta) of the user instead of the search; the source is then `given`.
    """
    half = selecting_half(val["names"].tolist())
    ce_logits, kd_logits, labels = (val[name][half] for name in ("ce_logits", "kd_logits", "labels"))
    chosen = Selection(1.0, 1.0, False, [])
    if two_heads and fixed is not None:
        chosen, source = Selection(*fixed, False, []), "given"
    elif two_heads:
        chosen = choose_alpha_beta(ce_logits, kd_logits, labels, metric)
    return {
        "schema": "dhox.selection/1",
        "alpha": chosen.alpha,
        "beta": chosen.beta,
        "searched": chosen.searched,
        "metric": metric,
        "source": source,
        "n_validation": len(val["labels"]),
        "n_selection_labels": len(labels) if chosen.searched else 0,
        "fewest_images": FEWEST_IMAGES,
        "grid": {"alphas": list(ALPHAS), "betas": list(BETAS), "score": chosen.score_grid} if chosen.searched else None,
        "evidence": evidence(val, chosen, metric) if two_heads and len(val["labels"]) else None,
        "label_free": label_free(val, chosen.alpha, chosen.beta) if two_heads and not chosen.searched else None,
    }


def evidence(val: dict[str, np.ndarray], chosen: Selection, metric: str) -> dict[str, Any]:
    """Validation accuracy at the chosen and at the fixed point, on images that did not choose, and their difference.

    `images`: gate-half (the half that does not select), cross-fitted (with fewer than 1,000 images alpha and beta are
    chosen on four folds and judged on the fifth) or validation (nothing was searched, every image judges). `difference`
    and `lower_bound` (one-sided 95 %, paired): chosen minus fixed, in points. `distinguishable`: the bound is above 0.
    """
    labels = val["labels"]
    half = selecting_half(val["names"].tolist())
    if not chosen.searched:
        images, parts = "validation", [(chosen, np.ones(len(labels), bool))]
    elif half.all():
        folds = fold_of(val["names"].tolist())
        rest = [(folds != k, folds == k) for k in range(FOLDS) if (folds == k).any()]
        images, parts = "cross-fitted", [(choose_on(val, choose, metric), judge) for choose, judge in rest]
    else:
        images, parts = "gate-half", [(chosen, ~half)]
    judged = np.any([judge for _, judge in parts], axis=0)
    probs = dho_probs(val["ce_logits"], val["kd_logits"], FIXED_ALPHA, FIXED_BETA)
    fixed_right, chosen_right = probs.argmax(-1) == labels, np.zeros(len(labels), bool)
    for point, judge in parts:
        probs = dho_probs(val["ce_logits"][judge], val["kd_logits"][judge], point.alpha, point.beta)
        chosen_right[judge] = probs.argmax(-1) == labels[judge]
    new, old = chosen_right[judged], fixed_right[judged]
    bound = 100 * paired_difference_lower_bound(new, old)
    return {
        "images": images,
        "chosen": accuracy_row(new),
        "fixed": accuracy_row(old),
        "difference": 100 * float(new.mean() - old.mean()),
        "lower_bound": bound,
        "distinguishable": bound > 0,
    }


def choose_on(val: dict[str, np.ndarray], choose: np.ndarray, metric: str) -> Selection:
    """alpha and beta by the images of a mask, bool [N]."""
    return choose_alpha_beta(val["ce_logits"][choose], val["kd_logits"][choose], val["labels"][choose], metric)


FOLLOWS_ONE_HEAD = 0.98  # share of the images on which the heads disagree
SATURATED = 0.99  # a top probability; the CE head is saturated where 9 of 10 images are above it
FEWEST_DISAGREEMENTS = 20  # with fewer, nothing is said about whom the mixture follows


def label_free(val: dict[str, np.ndarray], alpha: float, beta: float) -> dict[str, Any] | None:
    """What can be said of (alpha, beta) without labels, from the heads' logits of unlabelled images.

    `val`: unlabelled_ce_logits and unlabelled_kd_logits [N, C], and optionally unlabelled_teacher_predictions [N]; None
    without them. Shares of equal top-1 answers in [0, 1], mean top probabilities, and warnings as sentences. This is a
    check for degenerate mixtures; it does not say which answer is right.
    """
    if not len(val.get("unlabelled_ce_logits", ())):
        return None
    ce, kd = (dho_probs(val["unlabelled_ce_logits"], val["unlabelled_kd_logits"], a, beta) for a in (1.0, 0.0))
    mixture = alpha * ce + (1 - alpha) * kd
    answers = {"ce_head": ce.argmax(-1), "kd_head": kd.argmax(-1), "dho": mixture.argmax(-1)}
    disagree = answers["ce_head"] != answers["kd_head"]
    follows = {
        name: float((answers["dho"] == answers[name])[disagree].mean()) if disagree.any() else None
        for name in ("ce_head", "kd_head")
    }
    teacher = val.get("unlabelled_teacher_predictions")
    saturated = float((ce.max(-1) > SATURATED).mean())
    warnings = [
        f"the mixture is the {title} in disguise: it follows it on {100 * share:.1f} % of the {disagree.sum()} "
        f"unlabelled images on which the heads disagree"
        for name, title in (("ce_head", "CE head"), ("kd_head", "KD head"))
        if (share := follows[name]) is not None and share > FOLLOWS_ONE_HEAD and disagree.sum() >= FEWEST_DISAGREEMENTS
    ]
    if saturated > 0.9:
        warnings.append(
            f"the CE head is saturated: its top probability is above {SATURATED} on {100 * saturated:.0f} % of the "
            "unlabelled images, so where the heads disagree alpha alone decides"
        )
    return {
        "n": len(mixture),
        "n_disagree": int(disagree.sum()),
        "heads_agree": float(1 - disagree.mean()),
        "dho_agrees_with": {name: float((answers["dho"] == answers[name]).mean()) for name in ("ce_head", "kd_head")}
        | ({} if teacher is None else {"teacher": float((answers["dho"] == teacher).mean())}),
        "follows_where_heads_disagree": follows,
        "mean_top_probability": {
            "ce_head": float(ce.max(-1).mean()),
            "kd_head": float(kd.max(-1).mean()),
            "dho": float(mixture.max(-1).mean()),
        },
        "ce_head_saturated": saturated,
        "warnings": warnings,
    }


def test_rows(test: dict[str, np.ndarray], selection: dict[str, Any], two_heads: bool) -> list[dict[str, Any]]:
    """Accuracy on test with 95 % intervals: teacher, both heads, the mixture at fixed and at chosen alpha and beta."""
    ce_logits, kd_logits, labels = test["ce_logits"], test["kd_logits"], test["labels"]
    scores = {"student": ce_logits}
    if two_heads:
        scores = {
            "ce_head": ce_logits,
            "kd_head": kd_logits,
            "dho_fixed": dho_probs(ce_logits, kd_logits, FIXED_ALPHA, FIXED_BETA),
            "dho": dho_probs(ce_logits, kd_logits, selection["alpha"], selection["beta"]),
        }
    predictions = {stage: score.argmax(-1) for stage, score in scores.items()}
    if "teacher_predictions" in test:
        predictions = {"teacher": test["teacher_predictions"]} | predictions
    return [{"stage": stage, **accuracy_row(answer == labels)} for stage, answer in predictions.items()]

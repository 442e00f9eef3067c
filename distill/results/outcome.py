"""What both heads' logits come to: selection.json with its evidence, and the rows of test, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dhox.artefacts.common import Accuracy, Metric
from dhox.artefacts.logits import Logits
from dhox.artefacts.run import Run, Source, StageAccuracy, TestStage
from dhox.artefacts.selection import DhoAgreement, Evidence, Follows, LabelFree, Selection, TopProbability
from dhox.distill.results.selection import FEWEST_IMAGES, Chosen, choose_of
from dhox.distill.results.validation_parts import judging, selecting_half
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA, dho_probs
from dhox.evidence.statistics import paired_difference_interval, paired_difference_lower_bound, paired_lower_bound


@dataclass(frozen=True)
class RunResult:
    """A run directory with its run.json and selection.json."""

    run: Path
    summary: Run
    selection: Selection


def select(
    val: Logits, source: Source, two_heads: bool, metric: Metric, fixed: tuple[float, float] | None = None
) -> Selection:
    """Choose alpha and beta on the selecting part of validation.

    `source`: where validation comes from. `fixed`: (alpha, beta) of the user instead of the search; the source is then
    `given`. Where the search's point does worse than (0.4, 0.5) on images that did not choose it, that one stays.
    """
    selecting = val.of(selecting_half(val))
    chosen = Chosen(1.0, 1.0, None)
    if two_heads and fixed is not None:
        chosen, source = Chosen(*fixed, None), "given"
    elif two_heads:
        chosen = choose_of(selecting, metric)
    unsearched = two_heads and not chosen.searched
    found = evidence(val, chosen, metric) if two_heads and len(val) else None
    kept_fixed = chosen.searched and metric == "accuracy" and found is not None and found.difference < 0
    asked = len(selecting) if chosen.searched else 0
    if kept_fixed:
        chosen = Chosen(FIXED_ALPHA, FIXED_BETA, None)
    return Selection(
        alpha=chosen.alpha,
        beta=chosen.beta,
        searched=chosen.searched,
        kept_fixed=kept_fixed,
        metric=metric,
        source=source,
        n_validation=len(val),
        n_selection_labels=asked,
        fewest_images=FEWEST_IMAGES,
        grid=chosen.grid,
        evidence=found,
        label_free=label_free(val, chosen.alpha, chosen.beta) if unsearched else None,
    )


def evidence(val: Logits, chosen: Chosen, metric: Metric) -> Evidence | None:
    """Validation accuracy at the chosen and at the fixed point, on images that did not choose, and their difference.

    They are the half that does not select, else (with fewer than 1,000 images) alpha and beta are chosen on four folds
    and judged on the fifth; where nothing was searched, every image judges. None where four
    folds are too few to search.
    """
    images: Literal["gate-half", "cross-fitted", "validation"] = "validation"
    parts = [(chosen, np.ones(len(val), bool))]
    if chosen.searched:
        found = judging(val, FEWEST_IMAGES)
        if found is None:
            return None
        images = found.images
        again = images == "cross-fitted"
        parts = [(choose_of(val.of(choose), metric) if again else chosen, judge) for choose, judge in found.splits]
    judged = np.any([judge for _, judge in parts], axis=0)
    fixed = Chosen(FIXED_ALPHA, FIXED_BETA, None)
    old, new = answers_right(val, fixed)[judged], np.zeros(len(val), bool)
    for point, judge in parts:
        new[judge] = answers_right(val.of(judge), point)
    new = new[judged]
    bound = 100 * paired_difference_lower_bound(new, old)
    return Evidence(
        images=images,
        chosen=Accuracy.of(new),
        fixed=Accuracy.of(old),
        difference=100 * float(new.mean() - old.mean()),
        lower_bound=bound,
        distinguishable=bound > 0,
    )


def heads_sentence(val: Logits, selection: Selection) -> str | None:
    """What a run with two heads should be told where they are not shown to beat its better one alone, on the paired
    validation answers; None where they are, and where fewer than 50 images would tell."""
    if len(val) < FEWEST_IMAGES:
        return None
    both = answers_right(val, selection)
    heads = {"CE": answers_right(val, Chosen(1.0, 1.0, None)), "KD": answers_right(val, Chosen(0.0, 1.0, None))}
    name, alone = max(heads.items(), key=lambda head: head[1].mean())
    gained, lost = int((both & ~alone).sum()), int((alone & ~both).sum())
    if paired_lower_bound(gained, lost, len(val)) > 0:
        return None
    low, high = paired_difference_interval(gained, lost, len(val))
    return (
        f"two heads are not shown to beat the {name} head alone on {len(val)} validation images "
        f"({100 * (gained - lost) / len(val):+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}): one head may do as "
        "well, which --method dho,sho,kd --seeds 3 measures"
    )


def answers_right(logits: Logits, point: Chosen | Selection) -> np.ndarray:
    """bool [N]: whether DHO inference at a point answers right; of one head, whose point is (1, 1), whether it does."""
    right: np.ndarray = (
        dho_probs(logits.ce_logits, logits.kd_logits, point.alpha, point.beta).argmax(-1) == logits.labels
    )
    return right


FOLLOWS_ONE_HEAD = 0.98  # share of the images on which the heads disagree
SATURATED = 0.99  # a top probability; the CE head is saturated where 9 of 10 images are above it
FEWEST_DISAGREEMENTS = 20  # with fewer, nothing is said about whom the mixture follows


def label_free(val: Logits, alpha: float, beta: float) -> LabelFree | None:
    """What can be said of (alpha, beta) without labels, from the logits of unlabelled images; None without them.

    Shares of equal top-1 answers in [0, 1], mean top probabilities, and warnings as sentences. This is a check for
    degenerate mixtures; it does not say which answer is right.
    """
    unlabelled, teacher = val.unlabelled, val.unlabelled_teacher_predictions
    if unlabelled is None:
        return None
    ce, kd = (dho_probs(unlabelled.ce_logits, unlabelled.kd_logits, a, beta) for a in (1.0, 0.0))
    mixture = alpha * ce + (1 - alpha) * kd
    ce_answers, kd_answers, answers = ce.argmax(-1), kd.argmax(-1), mixture.argmax(-1)
    disagree = ce_answers != kd_answers
    follows = Follows(
        *(share(answers[disagree] == head[disagree]) if disagree.any() else None for head in (ce_answers, kd_answers))
    )
    saturated = share(ce.max(-1) > SATURATED)
    return LabelFree(
        n=len(unlabelled),
        n_disagree=int(disagree.sum()),
        heads_agree=1 - share(disagree),
        dho_agrees_with=DhoAgreement(
            share(answers == ce_answers),
            share(answers == kd_answers),
            None if teacher is None else share(answers == teacher),
        ),
        follows_where_heads_disagree=follows,
        mean_top_probability=TopProbability(*(float(probs.max(-1).mean()) for probs in (ce, kd, mixture))),
        ce_head_saturated=saturated,
        warnings=degenerate(follows, int(disagree.sum()), saturated),
    )


def share(which: np.ndarray) -> float:
    """The share of True."""
    return float(which.mean())


def degenerate(follows: Follows, n_disagree: int, saturated: float) -> list[str]:
    """Warnings of a mixture that is one head in disguise, or that alpha alone decides."""
    warnings = [
        f"the mixture is the {title} in disguise: it follows it on {100 * followed:.1f} % of the {n_disagree} "
        f"unlabelled images on which the heads disagree"
        for followed, title in ((follows.ce_head, "CE head"), (follows.kd_head, "KD head"))
        if followed is not None and followed > FOLLOWS_ONE_HEAD and n_disagree >= FEWEST_DISAGREEMENTS
    ]
    if saturated > 0.9:
        warnings.append(
            f"the CE head is saturated: its top probability is above {SATURATED} on {100 * saturated:.0f} % of the "
            "unlabelled images, so where the heads disagree alpha alone decides"
        )
    return warnings


def test_rows(test: Logits, selection: Selection, two_heads: bool) -> list[StageAccuracy]:
    """Accuracy on test with 95 % intervals: teacher, both heads, the mixture at fixed and at chosen alpha and beta."""
    ce_logits, kd_logits = test.ce_logits, test.kd_logits
    scores: dict[TestStage, np.ndarray] = {"student": ce_logits}
    if two_heads:
        scores = {
            "ce_head": ce_logits,
            "kd_head": kd_logits,
            "dho_fixed": dho_probs(ce_logits, kd_logits, FIXED_ALPHA, FIXED_BETA),
            "dho": dho_probs(ce_logits, kd_logits, selection.alpha, selection.beta),
        }
    answers: dict[TestStage, np.ndarray] = {}
    if test.teacher_predictions is not None:
        answers["teacher"] = test.teacher_predictions
    answers |= {stage: score.argmax(-1) for stage, score in scores.items()}
    return [StageAccuracy.of(answer == test.labels, stage=stage) for stage, answer in answers.items()]

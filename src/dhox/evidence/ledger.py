"""The accuracy ledger: the same images through every stage of the line, and where accuracy was lost (numpy only)."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import numpy as np

from dhox.artefacts.ledger import Ledger, Loss, Stage, StageRow
from dhox.evidence.statistics import expected_calibration_error, mcnemar_p

CHANCE = 0.05  # a loss whose McNemar p is at least this may be chance

S = TypeVar("S", bound=StageRow)


def make_ledger(
    stages: dict[Stage, np.ndarray], names: list[str], labels: np.ndarray | None, images: str, note: str | None = None
) -> Ledger:
    """A row per stage, the answers behind it, and the stages that lost accuracy.

    `stages`: name -> probs [N, C], in the order of the line. `names`, `labels` int [N]: of the images; without labels
    or stages there are no rows. `images`: what they are, in words. `note`: why there are no rows.
    """
    rows: list[StageRow] = []
    before: np.ndarray | None = None
    if labels is not None:
        for stage, probs in stages.items():
            rows.append(stage_row(StageRow, probs, labels, before, stage=stage))
            before = probs
    return Ledger(
        images=images,
        note=note,
        rows=rows,
        losses=losses(rows),
        names=names,
        labels=None if labels is None else labels.tolist(),
        predictions={row.stage: stages[row.stage].argmax(-1).tolist() for row in rows},
    )


def stage_row(kind: type[S], probs: np.ndarray, labels: np.ndarray, before: np.ndarray | None, **others: str) -> S:
    """One stage, also against `before`, the probs [N, C] of the stage before. `others`: further fields of the row."""
    right, finite = probs.argmax(-1) == labels, bool(np.isfinite(probs).all())
    gained = lost = agreement = difference = None
    if before is not None:
        was_right = before.argmax(-1) == labels
        gained, lost = int((right & ~was_right).sum()), int((was_right & ~right).sum())
        agreement = float((probs.argmax(-1) == before.argmax(-1)).mean())
        difference = float(abs(probs.astype(np.float64) - before).max()) if finite else None
    return kind.of(
        right,
        top5=top_k_accuracy(probs, labels, 5),
        calibration_error=expected_calibration_error(probs, labels) if finite else None,
        agreement=agreement,
        largest_difference=difference,
        gained=gained,
        lost=lost,
        mcnemar_p=None if gained is None or lost is None else mcnemar_p(gained, lost),
        **others,
    )


def top_k_accuracy(probs: np.ndarray, labels: np.ndarray, k: int) -> float | None:
    """Share of images whose label is among the k most probable classes; None with k classes or fewer."""
    if probs.shape[-1] <= k:
        return None
    best = np.argpartition(-probs, k, axis=-1)[:, :k]
    return float((best == labels[:, None]).any(-1).mean())


def losses(rows: list[StageRow]) -> list[Loss]:
    """The stages that lost accuracy beyond chance, in order; else the first that lost any.

    A student that is worse than its teacher has lost nothing on the way to the device.
    """
    lost = [
        Loss(row.stage, 100 * (row.gained - row.lost) / row.n, row.mcnemar_p, row.mcnemar_p < CHANCE)
        for before, row in pairwise(rows)
        if before.stage != "teacher"
        and row.gained is not None
        and row.lost is not None
        and row.mcnemar_p is not None
        and row.lost > row.gained
    ]
    return [loss for loss in lost if loss.beyond_chance] or lost[:1]

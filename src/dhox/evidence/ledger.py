"""The accuracy ledger: the same images through every stage of the line, and where accuracy was lost (numpy only)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.evidence.statistics import accuracy_row, expected_calibration_error, mcnemar_p

LEDGER_SCHEMA = "dhox.evidence.ledger/2"
CHANCE = 0.05  # a loss whose McNemar p is at least this may be chance


def ledger_content(
    stages: dict[str, np.ndarray], names: list[str], labels: np.ndarray | None, images: str, note: str | None = None
) -> dict[str, Any]:
    """ledger.json: a row per stage, the answers behind it, and the stages that lost accuracy.

    `stages`: name -> probs [N, C], in the order of the line. `names`, `labels` int [N]: of the images; without labels
    or stages there are no rows. `images`: what they are, in words. `note`: why there are no rows.
    """
    content: dict[str, Any] = {
        "schema": LEDGER_SCHEMA, "images": images, "note": note, "rows": [], "losses": [], "names": names,
        "labels": None if labels is None else labels.tolist(), "predictions": {},
    }  # fmt: skip
    if labels is None or not stages:
        return content
    rows: list[dict[str, Any]] = []
    before: np.ndarray | None = None
    for stage, probs in stages.items():
        rows.append({"stage": stage, **stage_row(probs, labels, before)})
        before = probs
    return content | {
        "rows": rows,
        "losses": losses(rows),
        "predictions": {stage: probs.argmax(-1).tolist() for stage, probs in stages.items()},
    }


def stage_row(probs: np.ndarray, labels: np.ndarray, before: np.ndarray | None) -> dict[str, Any]:
    """One stage: top-1 with interval, top-5, calibration error, and against the stage before (`before`: its probs).

    `agreement`: share of images with its label; `largest_difference` of a probability; `gained` and `lost` images;
    `mcnemar_p`: exact, two-sided. All None for the first stage. Where a probability is not finite, calibration error
    and largest difference are None.
    """
    right, finite = probs.argmax(-1) == labels, bool(np.isfinite(probs).all())
    row: dict[str, Any] = {
        **accuracy_row(right),
        "top5": top_k_accuracy(probs, labels, 5),
        "calibration_error": expected_calibration_error(probs, labels) if finite else None,
    }
    if before is None:
        return row | dict.fromkeys(("agreement", "largest_difference", "gained", "lost", "mcnemar_p"))
    was_right = before.argmax(-1) == labels
    gained, lost = int((right & ~was_right).sum()), int((was_right & ~right).sum())
    return row | {
        "agreement": float((probs.argmax(-1) == before.argmax(-1)).mean()),
        "largest_difference": float(abs(probs.astype(np.float64) - before).max()) if finite else None,
        "gained": gained,
        "lost": lost,
        "mcnemar_p": mcnemar_p(gained, lost),
    }


def top_k_accuracy(probs: np.ndarray, labels: np.ndarray, k: int) -> float | None:
    """Share of images whose label is among the k most probable classes; None with k classes or fewer."""
    if probs.shape[-1] <= k:
        return None
    best = np.argpartition(-probs, k, axis=-1)[:, :k]
    return float((best == labels[:, None]).any(-1).mean())


def losses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages that lost accuracy beyond chance, in order; else the first that lost any."""
    lost = [
        {
            "stage": row["stage"],
            "points": 100 * (row["gained"] - row["lost"]) / row["n"],
            "mcnemar_p": row["mcnemar_p"],
            "beyond_chance": row["mcnemar_p"] < CHANCE,
        }
        for row in rows
        if row["lost"] is not None and row["lost"] > row["gained"]
    ]
    return [loss for loss in lost if loss["beyond_chance"]] or lost[:1]


def accuracy_drops(rows: list[dict[str, Any]], reference: str) -> dict[str, float]:
    """Points of accuracy that each later stage has less than the stage `reference` (negative: more)."""
    start = [row["stage"] for row in rows].index(reference)
    base = rows[start]
    return {row["stage"]: 100 * (base["correct"] - row["correct"]) / row["n"] for row in rows[start + 1 :]}

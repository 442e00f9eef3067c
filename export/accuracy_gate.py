"""`--max-accuracy-drop`: what a written file may lose, held against the one-sided 95 % bound of its loss."""

from __future__ import annotations

from math import ceil

import numpy as np

from dhox.artefacts.ledger import Ledger, Stage
from dhox.errors import GateFailedError
from dhox.evidence.ledger import losses
from dhox.evidence.statistics import Z_95_ONE_SIDED, paired_difference_lower_bound, paired_lower_bound


def check_enough_images(n: int, allowed: float, what: str, instead: str) -> None:
    """Raise GateFailedError where so few images would not show that at most `allowed` points are lost even if every
    answer were the same. `what`: loses what, in words; `instead`: what else can be done."""
    least = -100 * paired_lower_bound(0, 0, n)
    if least > allowed:
        needed = "more images" if allowed == 0 else f"{ceil(100 * Z_95_ONE_SIDED / allowed - 2)} images"
        raise GateFailedError(
            f"That {what} cannot be shown on {n} images: without one difference the 95 % bound is {least:.2f}.",
            f"Give DATA a validation split of which {needed} {instead}",
        )


def check_accuracy_drop(ledger: Ledger, reference: Stage, allowed: float | None) -> None:
    """Raise GateFailedError where an ONNX stage may have lost more than `allowed` points of `reference`'s accuracy.

    Without labels the ledger has no rows, and nothing is judged here.
    """
    if allowed is None or not ledger.rows:
        return
    right = {stage: np.array(answers) == ledger.labels for stage, answers in ledger.predictions.items()}
    bounds = {
        stage: -100 * paired_difference_lower_bound(right[stage], right[reference])
        for stage in right if stage.startswith("onnx_")
    }  # fmt: skip
    worst = max(bounds, key=bounds.__getitem__)
    if bounds[worst] <= allowed:
        return
    n, drop = len(right[worst]), 100 * float(right[reference].mean() - right[worst].mean())
    first = ""
    for loss in losses(ledger.rows[[row.stage for row in ledger.rows].index(reference) :])[:1]:
        first = (
            f"; the first stage that lost is {loss.stage} ({loss.points:+.2f} points, McNemar p = {loss.mcnemar_p:.2g})"
        )
    raise GateFailedError(
        f"{worst} is {drop:.2f} points less accurate than {reference} on {n} images of {ledger.images}, by the 95 % "
        f"bound up to {bounds[worst]:.2f} (allowed: {allowed:g}){first}.",
        "Give DATA more validation images, allow more with --max-accuracy-drop, or leave that step out (--fold-rule "
        "exact, no --fp16, no --int8).",
    )

"""Whether a teacher is as sure as it is right: soft targets of a teacher that always is say no more than labels."""

from __future__ import annotations

import numpy as np

from dhox.artefacts.common import Calibration
from dhox.evidence.statistics import expected_calibration_error, softmax

# Points beyond the accuracy's interval. A soft teacher costs less than one whose targets are nearly labels.
OVER, UNDER = 0.10, 0.25


def calibration(logits: np.ndarray, labels: np.ndarray, images: str) -> Calibration | None:
    """Accuracy, mean top probability and calibration error of logits [N, C] on `images`; None without any."""
    if not len(labels):
        return None
    probs = softmax(logits)
    return Calibration.of(
        probs.argmax(-1) == labels,
        images=images,
        confidence=float(probs.max(-1).mean()),
        error=expected_calibration_error(probs, labels),
    )


def calibration_text(found: Calibration) -> str:
    """The three numbers."""
    low, high = found.interval
    return (
        f"top probability {100 * found.confidence:.1f} % on average, accuracy {100 * found.accuracy:.1f} % "
        f"({100 * low:.1f}-{100 * high:.1f}) on {found.n} {found.images} images, calibration error "
        f"{100 * found.error:.1f} points"
    )


def calibration_warning(found: Calibration | None, scale: float) -> str:
    """What is wrong with a teacher's logit scale, as a sentence without a full stop; empty where nothing is."""
    if found is None:
        return ""
    low, high = found.interval
    if high + OVER < found.confidence:
        problem = "much too sure: its targets say little more than labels"
    elif found.confidence < low - UNDER:
        problem = "much too unsure: its targets are nearly the same for every class"
    else:
        return ""
    return f"the teacher is {problem} ({calibration_text(found)}); check its logit scale ({scale:g}, --teacher-scale)"

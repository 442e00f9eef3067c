from __future__ import annotations

import numpy as np
import pytest

from dhox.evidence.calibration import calibration, calibration_warning

LABELS = np.zeros(400, int)


def logits(right: float, top: float) -> np.ndarray:
    """Of three classes: `right` of the answers right, all with the top probability `top`."""
    probs = np.full((400, 3), (1 - top) / 2)
    probs[np.arange(400), np.where(np.arange(400) < 400 * right, 0, 1)] = top
    return np.log(probs)


def test_confidence_and_error_are_what_they_say() -> None:
    found = calibration(logits(0.75, 0.9), LABELS, "validation")
    assert found is not None
    assert (found.accuracy, found.n, found.images) == (0.75, 400, "validation")
    assert found.confidence == pytest.approx(0.9)
    assert found.error == pytest.approx(0.15)
    assert calibration(np.zeros((0, 3)), LABELS[:0], "validation") is None


@pytest.mark.parametrize(
    ("right", "top", "word"),
    [(0.75, 0.75, ""), (0.75, 0.88, ""), (0.75, 0.91, "too sure"), (0.75, 0.5, ""), (0.75, 0.44, "too unsure")],
)
def test_a_warning_has_two_sides_and_names_the_scale(right: float, top: float, word: str) -> None:
    said = calibration_warning(calibration(logits(right, top), LABELS, "validation"), 99.6)
    assert bool(said) == bool(word)
    assert word in said
    assert not word or "99.6" in said


def test_few_images_warn_less() -> None:
    few = calibration(logits(0.75, 0.91)[::50], LABELS[::50], "labelled")
    assert calibration_warning(few, 100.0) == ""

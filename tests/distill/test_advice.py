from __future__ import annotations

import numpy as np
import pytest

from dhox.distill.auditing.advice import Way, advise


def way(kind: str, model: str, right: int, n: int = 400, parameters: int = 86_000_000) -> Way:
    return Way(kind, model, parameters, np.arange(n) < right, np.zeros(n, int))


def words(*ways: Way, n_unlabelled: int = 1000, commonest: float = 0.1) -> tuple[str, str]:
    verdict, lines = advise(list(ways), n_unlabelled, commonest)
    return verdict, " ".join(lines)


def test_every_sentence_carries_its_measurement() -> None:
    verdict, text = words(way("zero-shot", "big", 300), way("linear probe", "big", 340), way("zero-shot", "tiny", 200))
    assert verdict == "can pay"
    assert "the teacher itself: 75.0 % (70.5-79.0, n = 400), with 86.0 M parameters" in text
    assert "+10.0 points" in text
    assert "--adapter probe, its default" in text
    assert "-35.0 points" in text


def test_a_small_model_that_is_as_good_makes_distilling_needless() -> None:
    verdict, text = words(way("zero-shot", "big", 300), way("zero-shot", "tiny", 320, parameters=11_000_000))
    assert verdict == "unlikely to pay"
    assert "tiny (zero-shot, 11.0 M parameters): 80.0 %" in text
    assert "Use it as it is" in text


@pytest.mark.parametrize(("right", "verdict"), [(40, "unlikely to pay"), (100, "can pay")])
def test_a_guessing_teacher_has_nothing_to_pass_on(right: int, verdict: str) -> None:
    assert words(way("zero-shot", "big", right))[0] == verdict


def test_plain_distillation_is_judged_by_what_it_uses() -> None:
    """A probe on the labels says nothing of a teacher whose own answers are below the commonest class."""
    ways = way("zero-shot", "big", 49), way("linear probe", "big", 340)
    verdict, text = words(*ways, commonest=0.189)
    assert verdict == "unlikely to pay"
    assert "18.9 %" in text
    assert "--adapter probe" in text


def test_without_unlabelled_images_or_labels() -> None:
    verdict, text = words(way("zero-shot", "big", 300), n_unlabelled=0)
    assert verdict == "unlikely to pay"
    assert "no unlabelled image" in text
    assert words()[0] == "cannot tell"
    assert words(way("zero-shot", "big", 40, n=49))[0] == "cannot tell"
    assert words(way("zero-shot", "big", 40, n=50))[0] == "can pay"

"""What the learning curves say, on more images than are looked at together."""

from __future__ import annotations

import numpy as np
import pytest

from dhox.artefacts.logits import HeadLogits
from dhox.distill.results.evaluate import BATCH, validation_metrics
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA, dho_probs


@pytest.mark.parametrize("n", [1, BATCH, BATCH + 1, 3 * BATCH - 1])
def test_metrics_are_those_of_all_images_at_once(n: int) -> None:
    random = np.random.default_rng(n)
    ce, kd = random.normal(0, 2, (2, n, 7)).astype(np.float32)
    labels = random.integers(0, 7, n)
    answers = {"ce_head": ce, "kd_head": kd, "dho_fixed": dho_probs(ce, kd, FIXED_ALPHA, FIXED_BETA)}
    found = validation_metrics(HeadLogits(ce_logits=ce, kd_logits=kd), labels, two_heads=True)
    assert found == {f"val_{name}": (scores.argmax(-1) == labels).mean() for name, scores in answers.items()} | {
        "head_agreement": (ce.argmax(-1) == kd.argmax(-1)).mean()
    }
    one = validation_metrics(HeadLogits(ce_logits=ce, kd_logits=ce), labels, two_heads=False)
    assert one == {"val_accuracy": found["val_ce_head"]}

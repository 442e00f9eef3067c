"""The three scopes of a latency: what lies between the two readings of the clock."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from dhox.bench.bench_models import Subject
from dhox.data.images import decode, model_input
from dhox.runtimes.runtime import Session

SCOPES = {
    "device": "input on the device to output on the device, synchronised; nothing is copied",
    "e2e": "a preprocessed uint8 image batch in host memory to probabilities in host memory",
    "pipeline": "encoded images (JPEG, PNG ...) in host memory, decoded and preprocessed, to probabilities there",
}


def scope_calls(
    subject: Subject, runner: Session, pixels: np.ndarray, encoded: list[bytes]
) -> dict[str, Callable[[], object]]:
    """One synchronised call per scope, for a batch given as preprocessed `pixels` uint8 [B, crop, crop, 3] and as
    the `encoded` images behind them. Binds the runner to the batch."""
    tensors = subject.tensors
    runner.bind(tensors.graph_input(pixels))

    def e2e() -> np.ndarray:
        return tensors.probs(runner.infer(tensors.graph_input(pixels)))

    def pipeline() -> np.ndarray:
        images = [model_input(decode(io.BytesIO(content)), subject.preprocessing) for content in encoded]
        return tensors.probs(runner.infer(tensors.graph_input(np.stack(images))))

    return {"device": runner.run, "e2e": e2e, "pipeline": pipeline}

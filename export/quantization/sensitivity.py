"""Which layers int8 harms, and the fewest that have to go back until the answers are good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from dhox.export.quantization.qdq import Ranges, quantise
from dhox.progress import progress_bar
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

SENSITIVITY_IMAGES = 32
SMALLEST_PROBABILITY = 1e-12


def damages(
    model: onnx.ModelProto, ranges: Ranges, names: Sequence[str], tensors: Tensors, pixels: np.ndarray, fp32: np.ndarray
) -> dict[str, float]:
    """What each layer does to the answers when it alone is int8: mean KL(fp32 || int8) in nats, >= 0, inf for NaN.

    `fp32`: the fp32 graph's probs on `pixels` uint8 [N, H, W, 3], of which SENSITIVITY_IMAGES spread evenly are used.
    Alone, since the rounding errors of layers add up nearly independently, and a layer's own part drowns when all the
    others are int8.
    """
    chosen = np.unique(np.linspace(0, len(pixels) - 1, min(SENSITIVITY_IMAGES, len(pixels))).astype(int))
    few, expected = pixels[chosen], np.clip(fp32[chosen], SMALLEST_PROBABILITY, None).astype(np.float64)
    found = {}
    with progress_bar("Sensitivity of layers", len(names)) as advance:
        for name in names:
            probs = predict(OnnxSession(quantise(model, ranges, [name]).SerializeToString()), tensors, few)
            log_ratio = np.log(expected) - np.log(np.clip(probs, SMALLEST_PROBABILITY, None))
            kl = float((expected * log_ratio).sum(-1).mean())
            found[name] = max(kl, 0.0) if np.isfinite(kl) else float("inf")
            advance(1)
    return found


def fewest(n: int, holds: Callable[[int], bool]) -> int:
    """The smallest k in 1..n with holds(k), by doubling and bisection: holds is taken to be monotone, and true at n."""
    low, high = 0, min(1, n)
    while high < n and not holds(high):
        low, high = high, min(2 * high, n)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high

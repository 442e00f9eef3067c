"""Golden examples: a few images with the input and the probabilities that the model must give for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.data.images import decode, model_input

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # largest difference of a probability
AGREEMENT_SLACK = 0.05  # quantised graphs: share of labels that other kernels may flip (one of 32 images)
JPEG_TOLERANCE = 2  # of 255, between JPEG decoders


@dataclass(frozen=True)
class GoldenResult:
    """What a golden check found. `largest_difference` is of a probability; None where one is not finite."""

    n: int
    input_equal: bool
    jpeg_difference: int
    largest_difference: float | None
    decided_argmax_equal: bool
    agreement: float
    passed: bool


def golden_arrays(images: list[Image.Image], preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """The arrays of golden.npz but for `probs`: decoded images (`decoded_00` ...), `input`, one JPEG and its pixels.

    Large images are shrunk first, to at most twice the model's input, so that the file stays small.
    """
    arrays: dict[str, np.ndarray] = {}
    inputs = []
    for number, full in enumerate(images):
        image = full.copy()
        image.thumbnail((2 * preprocessing.resize, 2 * preprocessing.resize))
        arrays[f"decoded_{number:02d}"] = np.asarray(image)
        inputs.append(model_input(image, preprocessing))
    file = io.BytesIO()
    Image.fromarray(arrays["decoded_00"]).save(file, "JPEG", quality=90)
    arrays["jpeg"] = np.frombuffer(file.getvalue(), np.uint8)
    arrays["jpeg_pixels"] = np.asarray(decode(file))
    arrays["input"] = np.stack(inputs)
    return arrays


def check_golden(
    golden: dict[str, np.ndarray],
    run: Callable[[np.ndarray], np.ndarray],
    precision: str,
    preprocessing: Preprocessing,
    agreement: float | None = None,
) -> GoldenResult:
    """Whether this machine decodes, preprocesses and infers as the exporting one did.

    `run`: preprocessed pixels uint8 [N, H, W, 3] to probabilities, through the model under test. Passed means:
    input bit-equal, JPEG pixels within JPEG_TOLERANCE, probabilities within TOLERANCE of the precision, and the
    same argmax wherever the golden margin exceeds twice that. A quantised graph has no such tolerance: it passes where
    it gives torch's label as often as on the exporting machine, `agreement` in [0, 1], less AGREEMENT_SLACK.
    """
    n = len(golden["input"])
    inputs = [model_input(Image.fromarray(golden[f"decoded_{i:02d}"]), preprocessing) for i in range(n)]
    input_equal = bool(np.array_equal(np.stack(inputs), golden["input"]))
    jpeg = np.asarray(decode(io.BytesIO(golden["jpeg"].tobytes()), "golden JPEG")).astype(int)
    jpeg_difference = int(abs(jpeg - golden["jpeg_pixels"].astype(int)).max())

    tolerance = TOLERANCE[precision] if agreement is None else 1.0
    expected, probs = golden["probs"], run(golden["input"])
    difference = float(abs(probs - expected).max()) if np.isfinite(probs).all() else None
    ordered = np.sort(expected, axis=-1)
    decided = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    same = probs.argmax(-1) == expected.argmax(-1)
    decided_equal, share = bool(same[decided].all()), float(same.mean())
    decoded = input_equal and jpeg_difference <= JPEG_TOLERANCE
    passed = decoded and outputs_passed(difference, decided_equal, share, precision, agreement)
    return GoldenResult(n, input_equal, jpeg_difference, difference, decided_equal, share, passed)


def outputs_passed(
    difference: float | None, decided_equal: bool, share: float, precision: str, agreement: float | None
) -> bool:
    """Whether probabilities are right, whatever the decoders did.

    `difference`, `decided_equal`, `share`: `largest_difference`, `decided_argmax_equal`, `agreement` of a GoldenResult;
    `agreement`: as `check_golden` takes it.
    """
    if difference is None:
        return False
    if agreement is not None:
        return difference <= 1 and share >= agreement - AGREEMENT_SLACK
    return difference <= TOLERANCE[precision] and decided_equal

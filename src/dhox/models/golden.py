"""Golden images: made when a run is exported, and checked wherever the export is run."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from msgspec.structs import replace
from PIL import Image, ImageOps

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.golden import Golden, GoldenResult
from dhox.artefacts.manifest import Artefact
from dhox.data.images import decode, model_input
from dhox.models.export_directory import Export
from dhox.runtimes.predict import predict
from dhox.runtimes.runtime import Session
from dhox.runtimes.tensors import Tensors

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # largest difference of a probability
AGREEMENT_SLACK = 0.05  # quantised graphs: share of labels that other kernels may flip (one of 32 images)

Run = Callable[[np.ndarray], np.ndarray]  # preprocessed pixels uint8 [N, H, W, 3] to probabilities float32 [N, C]


def make_golden(images: list[Image.Image], preprocessing: Preprocessing, run: Run) -> Golden:
    """Golden images with the answers of `run`.

    Large images are shrunk first, to at most twice the model's input, so that the file stays small. Where JPEGs are
    decoded scaled, the one kept here is so large that it is.
    """
    decoded = []
    for full in images:
        image = full.copy()
        image.thumbnail((2 * preprocessing.resize, 2 * preprocessing.resize))
        decoded.append(np.asarray(image))
    file, first, side = io.BytesIO(), Image.fromarray(decoded[0]), preprocessing.jpeg_side
    if side is not None:
        first = ImageOps.fit(first, (2 * side, 2 * side))
    first.save(file, "JPEG", quality=90)
    inputs = np.stack([model_input(Image.fromarray(image), preprocessing) for image in decoded])
    return Golden(
        np.concatenate([image.ravel() for image in decoded]),
        np.array([image.shape[:2] for image in decoded], np.int64),
        inputs,
        run(inputs),
        np.frombuffer(file.getvalue(), np.uint8),
        np.asarray(decode(file, jpeg_side=side)),
    )


def check_golden(
    golden: Golden, run: Run, precision: str, preprocessing: Preprocessing, agreement: float | None = None
) -> GoldenResult:
    """Whether this machine decodes, preprocesses and infers as the exporting one did.

    `run`: through the model under test, once all images and once the first one alone (a batch size may be baked into a
    graph). Passed means: input bit-equal, JPEG pixels within JPEG_TOLERANCE, probabilities within TOLERANCE of the
    precision, and the same argmax wherever the golden margin exceeds twice that. A quantised graph has no such
    tolerance: it passes where it gives torch's label as often as on the exporting machine, `agreement` in [0, 1], less
    AGREEMENT_SLACK. Raises DhoxError where the JPEG is damaged.
    """
    input_equal, jpeg_difference = check_inputs(golden, preprocessing)
    tolerance = TOLERANCE[precision] if agreement is None else 1.0
    expected, probs, alone = golden.probs, run(golden.input), run(golden.input[:1])
    finite = bool(np.isfinite(probs).all() and np.isfinite(alone).all())
    difference = float(max(abs(probs - expected).max(), abs(alone - expected[:1]).max())) if finite else None
    ordered = np.sort(expected, axis=-1)
    decided = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    same = probs.argmax(-1) == expected.argmax(-1)
    found = GoldenResult(
        n=len(expected), input_equal=input_equal, jpeg_difference=jpeg_difference, largest_difference=difference,
        decided_argmax_equal=bool(same[decided].all()), agreement=float(same.mean()), outputs_passed=False,
        passed=False,
    )  # fmt: skip
    right = _outputs_passed(found, precision, agreement)
    return replace(found, outputs_passed=right, passed=right and input_equal and found.jpeg_passed)


def check_inputs(golden: Golden, preprocessing: Preprocessing) -> tuple[bool, int]:
    """Whether the golden images become the very input that they were, and how far a JPEG decodes to other pixels.

    Needs no model. Raises DhoxError where the JPEG is damaged.
    """
    inputs = np.stack([model_input(Image.fromarray(image), preprocessing) for image in golden.decoded])
    file = io.BytesIO(golden.jpeg.tobytes())
    jpeg = np.asarray(decode(file, "The golden JPEG", preprocessing.jpeg_side)).astype(int)
    same_size = jpeg.shape == golden.jpeg_pixels.shape
    difference = int(abs(jpeg - golden.jpeg_pixels.astype(int)).max()) if same_size else 255
    return bool(np.array_equal(inputs, golden.input)), difference


def run_golden(export: Export, entry: Artefact, session: Session, tensors: Tensors) -> GoldenResult:
    """The golden check of an export through an opened artefact, the one of `entry`; `tensors`: what it takes."""
    return check_golden(
        export.golden(), lambda pixels: predict(session, tensors, pixels), entry.precision, tensors.preprocessing,
        entry.golden_agreement,
    )  # fmt: skip


def _outputs_passed(found: GoldenResult, precision: str, agreement: float | None) -> bool:
    """Whether probabilities are right, whatever the decoders did. `agreement`: as `check_golden` takes it."""
    if found.largest_difference is None:
        return False
    if agreement is not None:
        return found.largest_difference <= 1 and found.agreement >= agreement - AGREEMENT_SLACK
    return found.largest_difference <= TOLERANCE[precision] and found.decided_argmax_equal

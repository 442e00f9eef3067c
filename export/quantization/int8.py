"""fp32 ONNX bytes to int8: explicit Q/DQ where it pays, half precision elsewhere, and an accuracy gate (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx

from dhox.artefacts.manifest import Int8Conversion, Returned
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.statistics import paired_difference_lower_bound
from dhox.export.accuracy_gate import check_enough_images
from dhox.export.half_precision.convert import QUANTISED_OPSET, Converted, convert
from dhox.export.quantization.cost import advice, multiply_adds
from dhox.export.quantization.qdq import Ranges, calibrate, layers, quantise
from dhox.export.quantization.sensitivity import damages, fewest
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import BATCH, predict
from dhox.runtimes.tensors import Tensors


@dataclass(frozen=True)
class Judges:
    """The images that judge: preprocessed pixels uint8 [N, H, W, 3], and their labels int [N], or None."""

    pixels: np.ndarray
    labels: np.ndarray | None = None

    @property
    def unit(self) -> str:
        """What a loss is counted in."""
        return "% of the answers" if self.labels is None else "points of top-1"


@dataclass(frozen=True)
class Int8Choices:
    """What may be chosen.

    `max_drop`: points of top-1 (without labels: the percentage of answers) that may be lost against fp32: the one-sided
    95 % bound of what the judging images show, so that a few of them prove nothing. `kept`: nodes that fp16 conversion
    keeps in fp32, and why; they are never quantised. `method`: one of `qdq.METHODS`.
    """

    max_drop: float = 2.0
    quantize_head: bool = False
    kept: Mapping[str, str] = field(default_factory=dict)
    method: Literal["minmax", "percentile"] = "minmax"


@dataclass(frozen=True)
class _Search:
    """One model's layers that int8 could take (operator by node name), their ranges, and what they are judged by."""

    model: onnx.ModelProto
    ranges: Ranges
    ops: dict[str, str]
    tensors: Tensors
    judges: Judges
    expected: np.ndarray
    max_drop: float

    def without(self, returned: Sequence[str]) -> bytes:
        """The model in int8 but for the layers `returned`; the rest is fp32."""
        chosen = [name for name in self.ops if name not in set(returned)]
        return quantise(self.model, self.ranges, chosen).SerializeToString()

    def loss(self, content: bytes, progress: str) -> Loss:
        """What a file loses against fp32."""
        answers = predict(OnnxSession(content), self.tensors, self.judges.pixels, progress)
        return loss_of(answers, self.expected, self.judges.labels)

    @cached_property
    def damage(self) -> dict[str, float]:
        """How much each layer alone changes the answers; the worst first, ties in the graph's order."""
        found = damages(self.model, self.ranges, list(self.ops), self.tensors, self.judges.pixels, self.expected)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def worst(self, count: int) -> list[str]:
        """The layers that harm most."""
        return list(self.damage)[:count] if count else []

    def first_guess(self) -> int:
        """How many layers to return, judged with an fp32 rest: several times faster on a CPU than the file itself."""
        if self.loss(self.without([]), "int8 answers").bound <= self.max_drop:
            return 0

        def holds(k: int) -> bool:
            return self.loss(self.without(self.worst(k)), f"int8 but the worst {k}").bound <= self.max_drop

        return fewest(len(self.ops), holds)


def to_int8(
    fp32: bytes,
    metadata: dict[str, Any],
    tensors: Tensors,
    calibration: np.ndarray,
    judges: Judges,
    choices: Int8Choices = Int8Choices(),
) -> Converted:
    """Quantise a file of `export_onnx` after training, and return the worst layers to fp16 until the gate holds.

    `calibration`: preprocessed pixels uint8 [N, H, W, 3]. The file has opset 19, the first with half-precision scales,
    and IR 10. Raises DhoxError without images or layers, UsageError for a negative `max_drop`, and GateFailedError
    where no layer is left in int8 before the gate holds, or where the judging images are too few for any to be.
    """
    if choices.max_drop < 0:
        raise UsageError(f"An accuracy drop of {choices.max_drop:g} points is a gain.", "Allow 0 or more.")
    if not len(judges.pixels):
        raise DhoxError("int8 needs images to judge it by, and there are none.", "Give DATA with validation images.")
    check_enough_images(
        len(judges.pixels), choices.max_drop, f"int8 loses at most {choices.max_drop:g} {judges.unit}",
        "select, allow more with --max-accuracy-drop, or use --fp16 instead of --int8.",
    )  # fmt: skip
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(fp32))
    free = [node for node in layers(model.graph, choices.quantize_head) if node.name not in choices.kept]
    if not free:
        raise DhoxError("This student has no layer that int8 could take.", "Export without --int8.")
    search = _Search(
        model, calibrate(model, list(tensors.batches(calibration, BATCH)), choices.method),
        {node.name: node.op_type for node in free}, tensors, judges,
        predict(OnnxSession(fp32), tensors, judges.pixels, "fp32 answers"), choices.max_drop,
    )  # fmt: skip
    count, step = search.first_guess(), 1
    while count < len(free):
        content = convert(search.without(search.worst(count)), metadata, choices.kept)
        loss = search.loss(content, "int8 file")
        if loss.bound <= choices.max_drop:
            return Converted(content, QUANTISED_OPSET, _account(search, choices, count, loss, len(calibration)))
        count, step = count + step, 2 * step
    raise GateFailedError(
        f"That int8 loses at most {choices.max_drop:g} {judges.unit} against fp32 is not shown on "
        f"{len(judges.pixels)} images, whichever of the {len(free)} layers stay int8.",
        "Use --fp16 instead of --int8, or allow more with --max-accuracy-drop.",
    )


def _account(search: _Search, choices: Int8Choices, count: int, loss: Loss, n_calibration: int) -> Int8Conversion:
    """What the manifest says of the file in which the worst `count` layers went back."""
    returned = search.worst(count)
    quantised = [name for name in search.ops if name not in returned]
    costs = multiply_adds(search.model)
    share = sum(costs[name] for name in quantised) / max(sum(costs.values()), 1)
    back = [Returned(name, search.ops[name], search.damage[name]) for name in returned]
    return Int8Conversion(
        quantised, back, share, choices.method, n_calibration, len(search.expected), search.judges.labels is not None,
        search.max_drop, loss.points, advice(search.model, share, costs), bound=loss.bound,
    )  # fmt: skip


class Loss(NamedTuple):
    """Points of top-1 that a file loses against fp32 (negative: gains), or without labels the percentage of answers
    that differ; and the one-sided 95 % upper bound of it."""

    points: float
    bound: float


def loss_of(probs: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> Loss:
    """What probs [N, C] lose against `expected` on the same images, by the bound that judges the fold.

    Without labels an answer that differs counts as lost. 100 where an answer is not finite.
    """
    if not np.isfinite(probs).all():
        return Loss(100.0, 100.0)
    new, old = probs.argmax(-1), expected.argmax(-1)
    right, before = (new == old, np.ones(len(new), bool)) if labels is None else (new == labels, old == labels)
    points = 100 * (float(before.mean()) - float(right.mean()))
    return Loss(points, -100 * paired_difference_lower_bound(right, before))

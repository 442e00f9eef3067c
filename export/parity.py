"""Holding a written graph's answers against those that it must give (no torch needed)."""

from __future__ import annotations

import numpy as np

from dhox.artefacts.ledger import Stage
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Check, Fold, Precision
from dhox.errors import GateFailedError
from dhox.evidence.statistics import softmax
from dhox.export.folding.fold import fold_probs
from dhox.models.golden import TOLERANCE
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

CPU_RUNNERS = {
    "fp32": "ONNX Runtime CPU",
    "fp16": "ONNX Runtime CPU, which computes much of fp16 in fp32",
    "int8": "ONNX Runtime CPU, emulated: rounded to int8, computed in floating point",
}
STAGES: dict[Precision, Stage] = {"fp32": "onnx_fp32", "fp16": "onnx_fp16", "int8": "onnx_int8"}


def onnx_probs(content: bytes, pixels: np.ndarray, tensors: Tensors) -> np.ndarray:
    """Probs of ONNX Runtime's CPU provider, float32 [N, C]."""
    return predict(OnnxSession(content), tensors, pixels)


def check_against_torch(precision: Precision, probs: np.ndarray, reference: np.ndarray) -> Check:
    """Compare an exported graph's answers with torch's. Raises GateFailedError where they differ too much."""
    check = _check_against(precision, probs, reference, "torch", CPU_RUNNERS[precision])
    advice = "Please report this student as a bug." if precision == "fp32" else f"Export without --{precision}."
    return passed(check, f"The {precision} graph", advice)


def check_rewritten(precision: Precision, probs: np.ndarray, reference: np.ndarray, against: str) -> Check:
    """Compare a rewritten graph's answers with a reference's. Raises GateFailedError where they differ too much."""
    check = _check_against(precision, probs, reference, against, "onnxruntime CPU, golden images")
    return passed(check, f"The rewritten {precision} graph", "Export the run again with these numbers.")


def _check_against(precision: Precision, probs: np.ndarray, reference: np.ndarray, against: str, runner: str) -> Check:
    """A graph's probs [N, C] beside a reference's; `against`: whose these are."""
    finite = bool(np.isfinite(probs).all())
    return Check(
        precision,
        runner,
        against,
        len(probs),
        float((probs.argmax(-1) == reference.argmax(-1)).mean()),
        float(abs(probs - reference).max()) if finite else float("inf"),
        TOLERANCE.get(precision),
    )


def passed(check: Check, graph: str, advice: str) -> Check:
    """The same. Raises GateFailedError where a probability differs by more than the tolerance of the precision; int8
    has none (its accuracy is gated), but its answers must be finite."""
    allowed = 1.0 if check.tolerance is None else check.tolerance
    if check.largest_difference > allowed:
        raise GateFailedError(
            f"{graph} differs from {check.against} by {check.largest_difference:.2g} in a probability (allowed: "
            f"{allowed:g}).",
            advice,
        )
    return check


def val_rows(val: Logits, names: list[str]) -> np.ndarray | None:
    """The rows int [N] of val.npz that hold these images, or None where one is not there."""
    row = {name: number for number, name in enumerate(val.names.tolist())}
    return np.array([row[name] for name in names], int) if all(name in row for name in names) else None


def stored_stages(names: list[str], val: Logits, rule: Fold) -> dict[Stage, np.ndarray]:
    """What training stored of the images `names`, probs [N, C] from val.npz: the teacher's, where it answered, and the
    student's by `rule`. Nothing where an image is not there.
    """
    rows = val_rows(val, names)
    if rows is None:
        return {}
    stages: dict[Stage, np.ndarray] = {}
    if val.teacher_logits is not None:
        stages["teacher"] = softmax(val.teacher_logits[rows])
    return stages | {"trained": fold_probs(val.of(rows), rule)}

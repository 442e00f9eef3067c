"""The proof of rewritten files: the golden inputs in numpy, and the ledger on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dhox.artefacts.heads import Heads
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.logits import HeadLogits
from dhox.artefacts.manifest import Artefact, Check, Fold, Int8Conversion
from dhox.errors import DhoxError, GateFailedError
from dhox.evidence.device_ledger import ledger_items
from dhox.evidence.ledger import make_ledger
from dhox.export.check_images import load_pixels
from dhox.export.folding.fold import fold_probs
from dhox.export.folding.refold import with_features
from dhox.export.parity import STAGES, check_rewritten, onnx_probs, stored_stages, val_rows
from dhox.export.quantization.int8 import loss_of
from dhox.export.retuning.numbers import Before
from dhox.runtimes.onnxruntime_session import OnnxSession

WITH_LAYER = {"linear": "linear", "exact": "linear", "heads": "ce_head"}


def proof(before: Before, models: dict[str, bytes], fold: Fold) -> tuple[np.ndarray, list[Check]]:
    """The rewritten fp32 graph's probs of the golden inputs, and the checks of every file.

    fp32 against heads.npz on that graph's own features, in numpy; every other file against fp32.
    """
    export, inputs = before.export, before.golden.input
    fp32 = export.entry("fp32")
    tensors = export.tensors(fp32)
    probs = onnx_probs(models[fp32.file], inputs, tensors)
    content, output = with_features(models[fp32.file], f"{WITH_LAYER[fold.rule]}.weight")
    features = OnnxSession(content, names=("image", output)).infer(tensors.graph_input(inputs))
    expected = probs_of_features(features, before.heads, fold)
    checks = [check_rewritten("fp32", probs, expected, "heads.npz in numpy")]
    for entry in export.manifest.artefacts:
        if entry is not fp32:
            answers = onnx_probs(models[entry.file], inputs, export.tensors(entry))
            checks.append(check_rewritten(entry.precision, answers, probs, "the fp32 graph"))
    return probs, checks


def probs_of_features(features: np.ndarray, heads: Heads, fold: Fold) -> np.ndarray:
    """What the folded heads answer to features [N, d] (or [z, z/|z|], [N, 2d]), by definition, float64 [N, C].

    Raises DhoxError for features of another width.
    """
    width = heads.ce_weight.shape[1]
    if features.ndim != 2 or features.shape[1] < width:
        raise DhoxError(
            f"The graph's features are {list(features.shape)}, heads.npz takes {width}.", "Export the run again."
        )
    z = features[:, :width].astype(np.float64)
    norms = np.maximum(np.linalg.norm(z, axis=1), 1e-6)
    u = z / norms[:, None] if heads.cosine else z
    kd_weight, kd_bias = heads.kd
    logits = HeadLogits(
        ce_logits=z @ heads.ce_weight.T + heads.ce_bias, kd_logits=u @ kd_weight.T + kd_bias, z_norms=norms,
        kd_bias=kd_bias,
    )  # fmt: skip
    return fold_probs(logits, fold)


def ledger_again(before: Before, models: dict[str, bytes], fold: Fold, data: Path | None) -> Ledger:
    """The ledger on the same images, where they are still there; else no rows, and the reason in `note`.

    Teacher and torch stages come from val.npz, where it holds the images; the others from the rewritten files. Raises
    GateFailedError where these images show what the golden ones did not: a file that differs too much from fp32.
    """
    export, old, val = before.export, before.ledger, before.val
    if old.labels is None:
        return old
    labels = np.array(old.labels)
    items, note = ledger_items(data or Path(export.manifest.data), export.manifest.names, old, export.images())
    if note is not None:
        return make_ledger({}, old.names, labels, old.images, note)
    pixels = load_pixels(items, export.manifest.preprocessing, "Reading check images")
    stages = stored_stages(old.names, val, Fold("exact", fold.alpha, fold.beta))
    rows = val_rows(val, old.names)
    if rows is not None:
        stages["two_head_torch"] = stages["trained"]  # torch does not run here
        stages["folded_torch"] = fold_probs(val, fold)[rows]
    entries = export.manifest.artefacts
    answers = {entry.precision: onnx_probs(models[entry.file], pixels, export.tensors(entry)) for entry in entries}
    for entry in entries:
        check_rewritten(entry.precision, answers[entry.precision], answers["fp32"], "the fp32 graph")
        _check_int8(entry, answers[entry.precision], answers["fp32"], labels)
    stages |= {STAGES[precision]: probs for precision, probs in answers.items()}
    return make_ledger(stages, old.names, labels, old.images)


def _check_int8(entry: Artefact, probs: np.ndarray, fp32: np.ndarray, labels: np.ndarray) -> None:
    """Raise GateFailedError where it is not shown that int8 loses no more points to fp32 than its export allowed."""
    if isinstance(entry.conversion, Int8Conversion):
        loss, allowed = loss_of(probs, fp32, labels), entry.conversion.max_drop
        if loss.bound > allowed:
            raise GateFailedError(
                f"With these numbers int8 loses {loss.points:.2f} points of top-1 against fp32, and by the 95 % bound "
                f"up to {loss.bound:.2f} (allowed: {allowed:g}).",
                "Export the run again with them.",
            )

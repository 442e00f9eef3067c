"""`dhox retune EXPORT`: a new export with other alpha, beta, r or tau, without torch, the backbone as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, isnan
from pathlib import Path

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Metric
from dhox.artefacts.files import (
    EXPORT_FILE,
    EXPORT_SCHEMA,
    check_output,
    free_name,
    output_directory,
    sha256,
    write_bytes,
)
from dhox.artefacts.golden import GOLDEN_FILE, Golden
from dhox.artefacts.heads import HEADS_FILE, Heads
from dhox.artefacts.ledger import LEDGER_FILE, Ledger, Stage
from dhox.artefacts.logits import VAL_FILE, HeadLogits, Logits
from dhox.artefacts.manifest import (
    SIDE_FILES,
    Artefact,
    Check,
    ComparisonRow,
    Evidence,
    Fold,
    Int8Conversion,
    Manifest,
    RetunedFrom,
)
from dhox.artefacts.record import write_record
from dhox.data.dataset import data_address
from dhox.distill.results.selection import FEWEST_IMAGES, choose_alpha_beta, selecting_half
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.device_ledger import ledger_items
from dhox.evidence.ledger import make_ledger
from dhox.export.check_images import load_pixels
from dhox.export.folding.fold import choose_fold, compare, fold_probs, tuned_linear, why_not_plain
from dhox.export.folding.head_weights import head_weights
from dhox.export.folding.refold import refold, with_features
from dhox.export.folding.reject import reject_threshold
from dhox.export.integrations.example import EXAMPLE_FILE, example_text
from dhox.export.parity import STAGES, check_rewritten, onnx_probs, teacher_stage, val_rows
from dhox.export.quantization.int8 import lost_points
from dhox.models.export_directory import Export, open_export
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.system.environment import now, versions

WITH_LAYER = {"linear": "linear", "exact": "linear", "heads": "ce_head"}
NUMBERS = ("alpha", "beta", "c_ce", "c_kd", "z_norm")


@dataclass(frozen=True)
class RetunedExport:
    """The new export: what its manifest (`retuned_from`: the export before) and its ledger hold."""

    export: Path
    manifest: Manifest
    ledger: Ledger


@dataclass(frozen=True)
class Asked:
    """What the user gives: alpha and beta, r (may be infinite), tau, and the metric for what is chosen again."""

    mixture: tuple[float, float] | None
    r: float | None
    tau: float | None
    metric: Metric

    @property
    def nothing(self) -> bool:
        """Whether no number is given: then all are chosen again."""
        return self.mixture is None and self.r is None and self.tau is None


@dataclass(frozen=True)
class Before:
    """The export to be retuned, read whole; `models`: content by file name."""

    export: Export
    heads: Heads
    val: Logits
    golden: Golden
    ledger: Ledger
    models: dict[str, bytes]


@dataclass(frozen=True)
class Numbers:
    """The new fold, its evidence and comparison; how many labels chose it, and whether alpha and beta were searched."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[ComparisonRow]
    n_labels: int
    searched: bool


@dataclass(frozen=True)
class After:
    """What is written: the new numbers, and the rewritten files with their proof."""

    numbers: Numbers
    models: dict[str, bytes]
    golden: Golden
    checks: list[Check]
    ledger: Ledger


def retune_export(
    export: Path,
    out: Path | None,
    *,
    metric: Metric | None = None,
    mixture: tuple[float, float] | None = None,
    r: float | None = None,
    tau: float | None = None,
    data: Path | None = None,
    overwrite: bool = False,
) -> RetunedExport:
    """Write the export directory `out` (default: a free EXPORT-retuned) from EXPORT with other numbers in its head.

    The rule stays. `mixture` (alpha, beta), `r` (linear; may be infinite) and `tau` (linear) are taken; of what is not
    given tau is fitted again to a new r, and the rest stays, unless nothing is given: then all are chosen again from
    val.npz by `metric` (default: the export's). `data`: where the check images are now, for the ledger. Engines and
    what --emit wrote are left out: they hold other numbers. Raises DhoxError where the export is damaged or its graphs
    do not hold the head, UsageError where its rule has no such number, GateFailedError where a rewritten graph does not
    answer as heads.npz says; then nothing is written.
    """
    opened = open_export(export)
    asked = Asked(mixture, r, tau, metric or opened.manifest.metric)
    _check_asked(opened, asked)
    out = _place_of(export, out, overwrite)
    before = _read_whole(opened)
    after = retuned(before, asked, data)
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite) as folder:
        manifest = _write_export(folder, before, after, asked.metric, data)
    return RetunedExport(out, manifest, after.ledger)


def _check_asked(export: Export, asked: Asked) -> None:
    """Raise where a number is none or out of its range, or the export's rule has no such number."""
    alpha, beta = asked.mixture or (0.0, 1.0)
    tau, r = 1.0 if asked.tau is None else asked.tau, 1.0 if asked.r is None else asked.r
    if not (0 <= alpha <= 1 and beta > 0 and tau > 0 and isfinite(beta) and isfinite(tau)) or isnan(r) or r < 0:
        raise UsageError(
            "alpha is a number from 0 to 1, beta and tau are above 0, and r is a number of at least 0, or inf.",
            "Give such ones.",
        )
    rule = export.manifest.fold.rule
    if rule == "single":
        raise DhoxError(
            f"{export.path} holds a student with one head: there is nothing to retune.", "Export a dho run."
        )
    if rule != "linear" and (asked.r is not None or asked.tau is not None):
        raise UsageError(
            f"{export.path} holds the rule {rule}, whose graph has two softmaxes and no r or tau.",
            "Export again with --fold-rule linear, or give --alpha and --beta.",
        )


def _place_of(export: Path, out: Path | None, overwrite: bool) -> Path:
    """Where the new export goes. Raises UsageError for EXPORT itself, DhoxError for what may not be replaced."""
    if out is None:
        whole = export if export.name else export.resolve()
        place = whole.with_name(f"{whole.name}-retuned")
        out = place if overwrite else free_name(place)
    if out.resolve() == export.resolve():
        raise UsageError(f"{out} is the export to be retuned, and an export never changes.", "Choose another --out.")
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite)
    return out


def _read_whole(export: Export) -> Before:
    """Every file of an export, checked."""
    models = {entry.file: export.model(entry).read_bytes() for entry in export.manifest.artefacts}
    return Before(export, export.heads(), export.validation(), export.golden(), export.ledger(), models)


def retuned(before: Before, asked: Asked, data: Path | None) -> After:
    """The new numbers, the files that hold them, and their proof."""
    numbers = _new_numbers(before, asked)
    old, new = (
        head_weights(before.heads, fold) for fold in (before.export.manifest.fold, numbers.fold)
    )  # parameters by name
    models = {name: refold(content, old, new, to_builtins(numbers.fold)) for name, content in before.models.items()}
    probs, checks = proof(before, models, numbers.fold)
    golden = Golden(**{**vars(before.golden), "probs": probs})
    return After(numbers, models, golden, checks, _ledger_again(before, models, numbers.fold, data))


def _new_numbers(before: Before, asked: Asked) -> Numbers:
    """What is asked for, what stays and what is tuned again (see `retune_export`), with the evidence for it."""
    manifest, val, old = before.export.manifest, before.val, before.export.manifest.fold
    half = selecting_half(val.names.tolist())
    alpha, beta, metric, r, tau = old.alpha, old.beta, asked.metric, asked.r, asked.tau
    n_labels, searched = manifest.n_selection_labels, manifest.searched
    if asked.mixture is not None:
        (alpha, beta), searched = asked.mixture, False
        n_labels = n_labels if old.rule == "linear" else 0
    elif asked.nothing and half.sum() >= FEWEST_IMAGES:
        chosen = choose_alpha_beta(val.ce_logits[half], val.kd_logits[half], val.labels[half], metric)
        alpha, beta, n_labels, searched = chosen.alpha, chosen.beta, int(half.sum()), True
    if old.rule == "linear" and old.tuned_on != "inference-weights" and not asked.nothing and r is None:
        r, tau = inf if old.r is None else old.r, old.tau if tau is None else tau
    linear = tuned_linear(val, alpha, beta, metric, r=r, tau=tau)
    plain = None
    if before.heads.cosine and why_not_plain(val) is None:
        plain = tuned_linear(val, alpha, beta, metric, plain=True, r=r, tau=tau)
    fold, evidence = choose_fold(
        val, linear, "linear" if old.rule == "linear" else "exact",
        manifest.evidence.tolerance if manifest.evidence else 1.0, metric,
        plain=plain if old.rule != "linear" or old.z_norm is not None else None, cosine=before.heads.cosine,
        searched=searched,
    )  # fmt: skip
    if old.rule == "heads":
        fold = Fold("heads", alpha, beta)
    if all(getattr(fold, name) == getattr(old, name) for name in NUMBERS):
        fold = old
    costs = {row.stage: row for row in manifest.comparison}
    comparison = [
        replace(row, head_parameters=known.head_parameters, head_us=known.head_us) if known else row
        for row in compare(val, linear, plain)
        for known in [costs.get(row.stage)]
    ]
    return Numbers(fold, evidence, comparison, n_labels, searched)


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


def _ledger_again(before: Before, models: dict[str, bytes], fold: Fold, data: Path | None) -> Ledger:
    """The ledger on the same images, where they are still there; else no rows, and the reason in `note`.

    Teacher and torch stages come from val.npz, where it holds the images; the others from the rewritten files. Raises
    GateFailedError where these images show what the golden ones did not: a file that differs too much from fp32.
    """
    export, old, val = before.export, before.ledger, before.val
    if old.labels is None:
        return old
    labels = np.array(old.labels)
    items, note = ledger_items(data or Path(export.manifest.data), export.manifest.names, old)
    if note is not None:
        return make_ledger({}, old.names, labels, old.images, note)
    pixels = load_pixels(items, export.manifest.preprocessing, "Reading check images")
    stages: dict[Stage, np.ndarray] = teacher_stage(old.names, val)
    rows = val_rows(val, old.names)
    if rows is not None:
        stages["two_head_torch"] = fold_probs(val, Fold("exact", fold.alpha, fold.beta))[rows]
        stages["folded_torch"] = fold_probs(val, fold)[rows]
    entries = export.manifest.artefacts
    answers = {entry.precision: onnx_probs(models[entry.file], pixels, export.tensors(entry)) for entry in entries}
    for entry in entries:
        check_rewritten(entry.precision, answers[entry.precision], answers["fp32"], "the fp32 graph")
        _check_int8(entry, answers[entry.precision], answers["fp32"], labels)
    stages |= {STAGES[precision]: probs for precision, probs in answers.items()}
    return make_ledger(stages, old.names, labels, old.images)


def _check_int8(entry: Artefact, probs: np.ndarray, fp32: np.ndarray, labels: np.ndarray) -> None:
    """Raise GateFailedError where int8 loses more points to fp32 than its export allowed."""
    if isinstance(entry.conversion, Int8Conversion):
        lost, allowed = lost_points(probs, fp32, labels), entry.conversion.max_drop
        if lost > allowed:
            raise GateFailedError(
                f"With these numbers int8 loses {lost:.2f} points of top-1 against fp32 (allowed: {allowed:g}).",
                "Export the run again with them.",
            )


def _write_export(folder: Path, before: Before, after: After, metric: Metric, data: Path | None) -> Manifest:
    """Write the new export; its manifest comes last."""
    export, old, numbers = before.export, before.export.manifest, after.numbers
    for name, content in after.models.items():
        write_bytes(folder / name, content)
    for name in (HEADS_FILE, VAL_FILE):
        write_bytes(folder / name, (export.path / name).read_bytes())
    write_arrays(folder / GOLDEN_FILE, after.golden)
    write_record(folder / LEDGER_FILE, after.ledger)
    reject = old.reject and reject_threshold(before.val, numbers.fold, old.reject.asked)
    write_bytes(folder / EXAMPLE_FILE, example_text(export.entry("fp32"), old.preprocessing, reject).encode())
    manifest = replace(
        old,
        finished_at=now(), fold=numbers.fold, metric=metric, n_selection_labels=numbers.n_labels,
        searched=numbers.searched, evidence=numbers.evidence, comparison=numbers.comparison, checks=after.checks,
        artefacts=[_rewritten_entry(entry, folder, after.checks) for entry in old.artefacts],
        environment=versions(), data=old.data if data is None else data_address(data), reject=reject,
        files={name: sha256(folder / name) for name in SIDE_FILES},
        retuned_from=RetunedFrom(
            str(export.path.absolute()), sha256(export.path / EXPORT_FILE), old.fold,
            sorted(path.name for path in export.path.iterdir() if path.name not in _known_names(before)),
        ),
    )  # fmt: skip
    write_record(folder / EXPORT_FILE, manifest)
    return manifest


def _known_names(before: Before) -> set[str]:
    """The names in an export's folder that the retuned one has too."""
    return {*before.models, *SIDE_FILES, EXPORT_FILE}


def _rewritten_entry(entry: Artefact, folder: Path, checks: list[Check]) -> Artefact:
    """The manifest's entry for a rewritten file."""
    check = next(check for check in checks if check.precision == entry.precision)
    path = folder / entry.file
    return replace(
        entry, bytes=path.stat().st_size, sha256=sha256(path),
        conversion=entry.conversion and replace(entry.conversion, before_retuning=True),
        golden_agreement=None if check.tolerance else check.agreement,
    )  # fmt: skip

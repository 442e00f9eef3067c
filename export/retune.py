"""`dhox retune EXPORT`: a new export with other alpha, beta, r or tau, without torch, the backbone as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import (
    EXPORT_FILE,
    EXPORT_SCHEMA,
    check_output,
    free_name,
    output_directory,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_json,
    write_npz,
)
from dhox.data.dataset import data_address
from dhox.distill.results.selection import FEWEST_IMAGES, choose_alpha_beta, selecting_half
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.device_ledger import ledger_items
from dhox.evidence.ledger import LEDGER_SCHEMA, ledger_content
from dhox.export.folding.fold import Evidence, Fold, choose_fold, compare, fold_probs, tuned_linear, why_not_plain
from dhox.export.folding.head_weights import head_weights, is_cosine
from dhox.export.folding.refold import refold, with_features
from dhox.export.folding.reject import reject_threshold
from dhox.export.integrations.emit import example_text
from dhox.export.parity import check_against, load_pixels, onnx_probs, teacher_probs, val_rows
from dhox.export.quantization.int8 import lost_points
from dhox.models.export_directory import SIDE_FILES, check_file, graph_input, read_manifest
from dhox.runtimes.onnxruntime_api import open_session
from dhox.system.environment import now, versions

WITH_LAYER = {"linear": "linear", "exact": "linear", "heads": "ce_head"}
NUMBERS = ("alpha", "beta", "c_ce", "c_kd", "z_norm")


@dataclass(frozen=True)
class RetunedExport:
    """The new export: the content of its manifest (`retuned_from`: the export before) and of its ledger."""

    export: Path
    manifest: dict[str, Any]
    ledger: dict[str, Any]


def retune_export(
    export: Path,
    out: Path | None,
    *,
    metric: str | None = None,
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
    manifest = read_manifest(export)
    old = Fold(**manifest["fold"])
    check_asked(export, old, mixture, r, tau)
    if out is None:
        whole = export if export.name else export.resolve()
        place = whole.with_name(f"{whole.name}-retuned")
        out = place if overwrite else free_name(place)
    if out.resolve() == export.resolve():
        raise UsageError(f"{out} is the export to be retuned, and an export never changes.", "Choose another --out.")
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite)
    heads, val, golden = (
        read_npz(check_file(export, name, manifest["files"][name])) for name in ("heads.npz", "val.npz", "golden.npz")
    )
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    metric = metric or manifest["metric"]

    numbers = new_numbers(manifest, old, heads, val, metric, mixture, r, tau)
    fold = numbers.fold

    # The files.
    before, after = head_weights(heads, old), head_weights(heads, fold)
    files = {
        entry["file"]: refold(
            check_file(export, entry["file"], entry["sha256"]).read_bytes(), before, after, fold.to_json()
        )
        for entry in manifest["artefacts"]
    }
    golden["probs"], checks = proof(manifest["artefacts"], files, golden["input"], preprocessing, heads, fold)
    ledger = ledger_again(manifest, read_json(export / "ledger.json", LEDGER_SCHEMA), files, val, fold, data)
    agreements = {check["precision"]: None if check["tolerance"] else check["agreement"] for check in checks}
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite) as folder:
        for name, content in files.items():
            write_bytes(folder / name, content)
        for name in ("heads.npz", "val.npz"):
            write_bytes(folder / name, (export / name).read_bytes())
        write_npz(folder / "golden.npz", **golden)
        write_json(folder / "ledger.json", ledger)
        new = manifest | {
            "finished_at": now(),
            "fold": fold.to_json(),
            "metric": metric,
            "n_selection_labels": numbers.n_labels,
            "searched": numbers.searched,
            "evidence": numbers.evidence.to_json() if numbers.evidence else None,
            "comparison": numbers.comparison,
            "checks": checks,
            "artefacts": [
                entry
                | {
                    "bytes": len(files[entry["file"]]),
                    "sha256": sha256(folder / entry["file"]),
                    "conversion": entry["conversion"] and entry["conversion"] | {"before_retuning": True},
                    "golden_agreement": agreements[entry["precision"]],
                }
                for entry in manifest["artefacts"]
            ],
            "environment": versions(),
            "retuned_from": {
                "path": str(export.absolute()),
                "manifest_sha256": sha256(export / EXPORT_FILE),
                "fold": manifest["fold"],
                "left_out": left_out(export, [*files, *SIDE_FILES, EXPORT_FILE]),
            },
        }
        if data is not None:
            new["data"] = data_address(data)
        if manifest["reject"]:
            new["reject"] = reject_threshold(val, fold, manifest["reject"]["asked"])
        write_bytes(folder / "example.py", example_text(new).encode())
        new["files"] = {name: sha256(folder / name) for name in SIDE_FILES}
        write_json(folder / EXPORT_FILE, new)
    return RetunedExport(out, new, ledger)


@dataclass(frozen=True)
class Numbers:
    """The new fold, its evidence and comparison; how many labels chose it, and whether alpha and beta were searched."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[dict[str, Any]]
    n_labels: int
    searched: bool


def new_numbers(
    manifest: dict[str, Any], old: Fold, heads: dict[str, np.ndarray], val: dict[str, np.ndarray], metric: str,
    mixture: tuple[float, float] | None, r: float | None, tau: float | None,
) -> Numbers:  # fmt: skip
    """What is asked for, what stays and what is tuned again (see `retune_export`), with the evidence for it."""
    half = selecting_half(val["names"].tolist())
    nothing = mixture is None and r is None and tau is None
    alpha, beta = old.alpha, old.beta
    n_labels, searched = manifest["n_selection_labels"], manifest["searched"]
    if mixture is not None:
        (alpha, beta), searched = mixture, False
        n_labels = n_labels if old.rule == "linear" else 0
    elif nothing and half.sum() >= FEWEST_IMAGES:
        chosen = choose_alpha_beta(val["ce_logits"][half], val["kd_logits"][half], val["labels"][half], metric)
        alpha, beta, n_labels, searched = chosen.alpha, chosen.beta, int(half.sum()), True
    if old.rule == "linear" and old.tuned_on != "inference-weights" and not nothing and r is None:
        r, tau = inf if old.r is None else old.r, old.tau if tau is None else tau
    cosine = is_cosine(heads)
    linear = tuned_linear(val, alpha, beta, metric, r=r, tau=tau)
    plain = None
    if cosine and why_not_plain(val) is None:
        plain = tuned_linear(val, alpha, beta, metric, plain=True, r=r, tau=tau)
    rule = "linear" if old.rule == "linear" else "exact"
    wanted = plain if old.rule != "linear" or old.z_norm is not None else None
    tolerance = (manifest["evidence"] or {"tolerance": 1.0})["tolerance"]
    fold, evidence = choose_fold(val, linear, rule, tolerance, metric, plain=wanted, cosine=cosine, searched=searched)
    if old.rule == "heads":
        fold = Fold("heads", alpha, beta)
    if all(getattr(fold, name) == getattr(old, name) for name in NUMBERS):
        fold = old
    costs = {row["stage"]: {k: row[k] for k in ("head_parameters", "head_us")} for row in manifest["comparison"]}
    comparison = [row | costs.get(row["stage"], {}) for row in compare(val, linear, plain)]
    return Numbers(fold, evidence, comparison, n_labels, searched)


def check_asked(
    export: Path, fold: Fold, mixture: tuple[float, float] | None, r: float | None, tau: float | None
) -> None:
    """Raise where a number is none, or the export's rule has no such number."""
    finite = [value for value in (*(mixture or ()), tau) if value is not None]
    if not all(isfinite(value) for value in finite) or (r is not None and isnan(r)):
        raise UsageError("alpha, beta and tau are finite numbers, and r is a number or inf.", "Give such ones.")
    if fold.rule == "single":
        raise DhoxError(f"{export} holds a student with one head: there is nothing to retune.", "Export a dho run.")
    if fold.rule != "linear" and (r is not None or tau is not None):
        raise UsageError(
            f"{export} holds the rule {fold.rule}, whose graph has two softmaxes and no r or tau.",
            "Export again with --fold-rule linear, or give --alpha and --beta.",
        )


def left_out(export: Path, taken: list[str]) -> list[str]:
    """Names in the export's folder that the retuned one does not have."""
    return sorted(path.name for path in export.iterdir() if path.name not in taken)


def proof(
    artefacts: list[dict[str, Any]],
    files: dict[str, bytes],
    inputs: np.ndarray,
    preprocessing: Preprocessing,
    heads: dict[str, np.ndarray],
    fold: Fold,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The rewritten fp32 graph's probs of the golden inputs, and the checks of every file.

    fp32 against heads.npz on that graph's own features, in numpy; every other file against fp32.
    """
    fp32 = next(entry for entry in artefacts if entry["precision"] == "fp32")
    batch = graph_input(inputs, fp32["input"], preprocessing)
    content, output = with_features(files[fp32["file"]], f"{WITH_LAYER[fold.rule]}.weight")
    probs, features = open_session(content, "cpu").run(["probs", output], {"image": batch})
    expected = probs_of_features(features[:, : heads["ce_weight"].shape[1]], heads, fold)
    checks = [check_rewritten("fp32", probs, expected, "heads.npz in numpy")]
    for entry in artefacts:
        if entry is not fp32:
            answers = onnx_probs(files[entry["file"]], inputs, entry["input"], preprocessing)
            checks.append(check_rewritten(entry["precision"], answers, probs, "the fp32 graph"))
    return probs, checks


def probs_of_features(z: np.ndarray, heads: dict[str, np.ndarray], fold: Fold) -> np.ndarray:
    """What the folded heads answer to features [N, d], by their definition, float64 [N, C]."""
    z = z.astype(np.float64)
    norms = np.maximum(np.linalg.norm(z, axis=1), 1e-6)
    u = z / norms[:, None] if is_cosine(heads) else z
    logits = {
        "ce_logits": z @ heads["ce_weight"].T + heads["ce_bias"],
        "kd_logits": u @ heads["kd_weight"].T + heads["kd_bias"],
        "z_norms": norms,
        "kd_bias": heads["kd_bias"],
    }
    return fold_probs(logits, fold)


def check_rewritten(precision: str, probs: np.ndarray, reference: np.ndarray, against: str) -> dict[str, Any]:
    """`check_against` of a rewritten graph's answers."""
    advice = "Export the run again with these numbers."
    runner = "onnxruntime CPU, golden images"
    return check_against(precision, probs, reference, f"rewritten {precision}", against, runner, advice)


def ledger_again(
    manifest: dict[str, Any],
    old: dict[str, Any],
    files: dict[str, bytes],
    val: dict[str, np.ndarray],
    fold: Fold,
    data: Path | None,
) -> dict[str, Any]:
    """ledger.json on the same images, where they are still there; else no rows, and the reason in `note`.

    Teacher and torch stages come from val.npz, where it holds the images; the others from the rewritten files. Raises
    GateFailedError where these images show what the golden ones did not: a file that differs too much from fp32.
    """
    if old["labels"] is None:
        return old
    items, note = ledger_items(data or Path(manifest["data"]), [entry["name"] for entry in manifest["classes"]], old)
    if note is not None:
        return ledger_content({}, old["names"], np.array(old["labels"]), old["images"], note)
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    pixels, labels = load_pixels(items, preprocessing, "Reading check images"), np.array(old["labels"])
    teacher, rows = teacher_probs(old["names"], val), val_rows(val, old["names"])
    stages = {} if teacher is None else {"teacher": teacher}
    if rows is not None:
        stages["two_head_torch"] = fold_probs(val, Fold("exact", fold.alpha, fold.beta))[rows]
        stages["folded_torch"] = fold_probs(val, fold)[rows]
    for entry in manifest["artefacts"]:
        probs = onnx_probs(files[entry["file"]], pixels, entry["input"], preprocessing)
        stages[f"onnx_{entry['precision']}"] = probs
    for entry in manifest["artefacts"]:
        probs, fp32 = stages[f"onnx_{entry['precision']}"], stages["onnx_fp32"]
        check_rewritten(entry["precision"], probs, fp32, "the fp32 graph")
        if entry["precision"] == "int8" and lost_points(probs, fp32, labels) > entry["conversion"]["max_drop"]:
            raise GateFailedError(
                f"With these numbers int8 loses {lost_points(probs, fp32, labels):.2f} points of top-1 against fp32 "
                f"(allowed: {entry['conversion']['max_drop']:g}).",
                "Export the run again with them.",
            )
    return ledger_content(stages, old["names"], labels, old["images"])

"""An export directory, read: its manifest, the integrity of its files, and inputs of its graphs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.common import LARGEST_SIDE, Preprocessing
from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, partial_directory, read_json, settle, sha256
from dhox.data.images import INTERPOLATIONS
from dhox.errors import DhoxError
from dhox.runtimes.tensors import INPUT_KINDS, Tensors

PRECISIONS = ("fp32", "fp16", "int8")
SIDE_FILES = ("golden.npz", "heads.npz", "val.npz", "ledger.json", "example.py")  # what travels with the models
MANIFEST_KEYS = {
    "run", "skipped", "student", "teacher", "n_selection_labels", "searched", "evidence", "comparison", "checks",
}  # fmt: skip
FOLD_KEYS = {"rule", "alpha", "beta", "c_ce", "c_kd", "r", "tau", "tuned_on", "calibrated", "z_norm"}


def read_manifest(export: Path) -> dict[str, Any]:
    """The manifest of an export directory. Raises DhoxError where it is none, or unfinished."""
    settle(export, EXPORT_FILE, EXPORT_SCHEMA)
    if not (export / EXPORT_FILE).exists():
        partial = " (an export there did not finish)" if partial_directory(export).exists() else ""
        raise DhoxError(f"{export} is not an export directory{partial}: no {EXPORT_FILE}.", "Run: dhox export RUN")
    manifest = read_json(export / EXPORT_FILE, EXPORT_SCHEMA)
    if manifest.get("status") != "complete":
        raise DhoxError(f"The export in {export} did not finish.", "Run it again: dhox export RUN --overwrite")
    if not is_whole(manifest):
        raise DhoxError(f"{export}/{EXPORT_FILE} is not what dhox wrote.", "Copy the directory again, or export again.")
    return manifest


def is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has what its readers need, with values that dhox could have written."""
    try:
        contract = Preprocessing.from_json(manifest["preprocessing"])
        entries, files, reject = manifest["artefacts"], manifest["files"], manifest["reject"]
        texts = [*files, *files.values(), *(item["name"] for item in manifest["classes"])]
        texts += [manifest["data"], manifest["metric"], manifest["fold"]["rule"]]
        texts += [entry[key] for entry in entries for key in ("file", "precision", "input", "sha256")]
        return (
            all(isinstance(text, str) for text in texts)
            and all({"opset", "ir", "bytes", "golden_agreement", "conversion"} <= entry.keys() for entry in entries)
            and all(entry["precision"] in PRECISIONS and entry["input"] in INPUT_KINDS for entry in entries)
            and manifest["default"] in {entry["precision"] for entry in entries}
            and set(SIDE_FILES) <= files.keys()
            and manifest.keys() >= MANIFEST_KEYS
            and manifest["fold"].keys() == FOLD_KEYS
            and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (contract.resize, contract.crop))
            and contract.interpolation in INTERPOLATIONS
            and all(isinstance(value, float) for value in [*contract.mean, *contract.std])
            and (reject is None or 0 <= reject["threshold"] <= 1)
            and bool(manifest["classes"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def check_file(export: Path, name: str, expected: str) -> Path:
    """The path of a file of the export, once its hash is what the manifest says."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise DhoxError(f"{EXPORT_FILE} names {name!r}, which is no plain file name.", f"Do not trust {export}.")
    path = export / name
    if not path.is_file():
        raise DhoxError(
            f"{path} is missing, though {EXPORT_FILE} names it.", "Copy the whole directory, or export again."
        )
    if sha256(path) != expected:
        raise DhoxError(
            f"{path} is not the file that {EXPORT_FILE} describes (its SHA-256 differs).",
            "Copy the directory again, or export again.",
        )
    return path


def artefact(manifest: dict[str, Any], precision: str | None) -> dict[str, Any]:
    """The manifest's entry for a precision, or its default."""
    by_precision = {entry["precision"]: entry for entry in manifest["artefacts"]}
    chosen = precision or manifest["default"]
    if chosen not in by_precision:
        raise DhoxError(f"This export holds no {chosen} model.", f"Ask for one of: {', '.join(by_precision)}.")
    entry: dict[str, Any] = by_precision[chosen]
    return entry


def graph_input(pixels: np.ndarray, kind: str, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocessed pixels uint8 [N, H, W, 3] as a graph of this input kind takes them (see INPUT_KINDS)."""
    return Tensors(preprocessing, kind).graph_input(pixels)

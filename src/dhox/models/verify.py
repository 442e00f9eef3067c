"""dhox verify: whether an export is whole on this machine, and answers as it did where it was made (no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import read_npz, sha256
from dhox.errors import DhoxError
from dhox.models.engines import ENGINE_FILE, PLAN_FILE, read_sidecar
from dhox.models.export_directory import check_file, read_manifest
from dhox.models.golden import JPEG_TOLERANCE, TOLERANCE, GoldenResult, check_golden, outputs_passed
from dhox.models.onnx_file import OnnxFile, check_onnx
from dhox.runtimes.onnxruntime_api import default_device
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors

EMULATED = "the CPU provider computes much of it in fp32"


@dataclass(frozen=True)
class Check:
    """`what` was checked of which `file`, and what was `found`. `passed` is None where it could not run."""

    file: str
    what: str
    passed: bool | None
    found: str


def verify(export: Path, device: str = "auto") -> list[Check]:
    """Every check of an export on this machine, in order; none of them stops the others.

    `device`: auto, cpu or cuda, where the golden images run (auto: CUDA where ONNX Runtime has it). Raises DhoxError
    where there is no finished export (no manifest.json that this dhox reads).
    """
    manifest = read_manifest(export)
    if device == "auto":
        device = default_device()
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    rows: list[Check] = []
    golden: dict[str, np.ndarray] | None = None
    for name, digest in manifest["files"].items():
        rows.append(attempt(name, "hash", partial(hash_words, export, name, digest)))
        if name == "golden.npz" and rows[-1].passed:
            try:
                golden = read_golden(export / name)
                rows += contract_rows(golden, preprocessing)
            except DhoxError as err:
                rows.append(Check(name, "golden images", False, str(err)))
    for entry in manifest["artefacts"]:
        rows += artefact_rows(export, manifest, entry, golden, preprocessing, device)
    for sidecar in sorted((export / "engines").glob(f"*/{ENGINE_FILE}")):
        if sidecar.parent.suffix == ".partial":  # of a build that was killed
            continue
        rows.append(engine_row(export, manifest, sidecar))
    return rows


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """golden.npz. Raises DhoxError where it is damaged or lacks an array."""
    golden = read_npz(path)
    decoded = {f"decoded_{i:02d}" for i in range(len(golden.get("input", ())))}
    if not {"input", "probs", "jpeg", "jpeg_pixels"} | decoded <= golden.keys() or not decoded:
        raise DhoxError(f"{path} lacks golden images.", "Copy the directory again, or export again.")
    return golden


def attempt(file: str, what: str, check: Callable[[], str]) -> Check:
    """A check that answers with what it found; its DhoxError becomes a row that failed."""
    try:
        return Check(file, what, True, check())
    except DhoxError as err:
        return Check(file, what, False, str(err))


def hash_words(export: Path, name: str, digest: str) -> str:
    """A file of the export is the file that the manifest describes."""
    size = check_file(export, name, digest).stat().st_size
    return f"{size:,} bytes, SHA-256 {digest[:12]}"


def artefact_rows(
    export: Path, manifest: dict[str, Any], entry: dict[str, Any], golden: dict[str, np.ndarray] | None,
    preprocessing: Preprocessing, device: str,
) -> list[Check]:  # fmt: skip
    """Hash, self-description and golden outputs of one ONNX file."""
    name, precision = entry["file"], entry["precision"]
    rows = [attempt(name, "hash", lambda: hash_words(export, name, entry["sha256"]))]
    if not rows[0].passed:
        return rows
    rows.append(attempt(name, "metadata", lambda: metadata_words(check_onnx(export / name), manifest, entry)))
    if golden is None:
        return [*rows, Check(name, "golden outputs", None, "not run: there is no whole golden.npz")]
    agreement = entry["golden_agreement"]
    if precision not in TOLERANCE and agreement is None:
        return [*rows, Check(name, "golden outputs", None, f"not run: the manifest has no agreement for {precision}")]
    run = attempt(name, "golden outputs", lambda: golden_words(export / name, entry, golden, preprocessing, device))
    return [*rows, run]


def metadata_words(found: OnnxFile, manifest: dict[str, Any], entry: dict[str, Any]) -> str:
    """What the file says of itself equals the manifest. Raises DhoxError that names the first difference."""
    expected = {
        "classes": [item["name"] for item in manifest["classes"]],
        "preprocessing": manifest["preprocessing"],
        "fold": manifest["fold"],
    }
    differences = [
        f"{key} in the file: {brief(found.dhox(key))}; the manifest says {brief(value)}"
        for key, value in expected.items()
        if found.dhox(key) != value
    ]
    said = {"IR version": (found.ir, entry["ir"]), "opset": (found.opset, entry["opset"]),
            "input": (found.inputs, ["image"]), "output": (found.outputs, ["probs"])}  # fmt: skip
    differences += [f"{key} in the file: {has}; expected: {want}" for key, (has, want) in said.items() if has != want]
    if differences:
        raise DhoxError(f"{differences[0]}.", "Model and manifest do not belong together: copy both, or export again.")
    return f"classes, preprocessing and fold as in the manifest; opset {found.opset}, IR {found.ir}"


def brief(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def golden_words(
    path: Path, entry: dict[str, Any], golden: dict[str, np.ndarray], preprocessing: Preprocessing, device: str
) -> str:
    """The golden images through one file. Raises DhoxError beyond the tolerance, or where it cannot run."""
    precision, agreement = entry["precision"], entry["golden_agreement"]
    session, tensors = OnnxSession(path, device, precision=precision), Tensors(preprocessing, entry["input"])
    result = check_golden(golden, lambda pixels: predict(session, tensors, pixels), precision, preprocessing, agreement)
    if not outputs_passed(
        result.largest_difference, result.decided_argmax_equal, result.agreement, precision, agreement
    ):
        allowed = f"{TOLERANCE[precision]:g}" if agreement is None else f"same label on {100 * agreement:.0f} %"
        raise DhoxError(
            f"{result_words(result)} (allowed: {allowed}).",
            "Do not ship it: compare the versions of onnxruntime here "
            "and where it was exported, then copy the directory again, or export again.",
        )
    return f"{device}: {result_words(result)}{f'; {EMULATED}' if session.facts.emulated else ''}"


def result_words(result: GoldenResult) -> str:
    """What a golden check found."""
    difference = result.largest_difference
    largest = "not finite" if difference is None else f"{difference:.1e}"
    return (
        f"{result.n} images, largest difference of a probability {largest}, same label {100 * result.agreement:.1f} %"
    )


def contract_rows(golden: dict[str, np.ndarray], preprocessing: Preprocessing) -> list[Check]:
    """This machine decodes and preprocesses as the exporting one did."""
    result = check_golden(golden, lambda pixels: golden["probs"], "fp32", preprocessing)
    advice = "Compare the versions of Pillow here and where it was exported."
    equal = "bit-equal" if result.input_equal else f"another model input than the exporting machine's. {advice}"
    jpeg = f"largest difference {result.jpeg_difference} of 255 (allowed: {JPEG_TOLERANCE})"
    near = result.jpeg_difference <= JPEG_TOLERANCE
    return [
        Check("golden.npz", "preprocessing", result.input_equal, f"{result.n} images, {equal}"),
        Check("golden.npz", "JPEG decoder", near, jpeg if near else f"{jpeg}. {advice}"),
    ]


def engine_row(export: Path, manifest: dict[str, Any], sidecar: Path) -> Check:
    """A TensorRT engine is the file that its sidecar describes, built from an ONNX file of this export."""
    name = sidecar.parent.relative_to(export).as_posix()

    def check() -> str:
        content = read_sidecar(sidecar.parent)
        try:
            digest, source = content["engine"]["sha256"], content["onnx"]["sha256"]
        except (KeyError, TypeError) as err:
            raise DhoxError(f"{sidecar} is incomplete ({err!r}).", "Build the engine again.") from err
        path = sidecar.parent / PLAN_FILE
        if not path.is_file() or sha256(path) != digest:
            raise DhoxError(
                f"{path} is missing, or not the file that its sidecar describes.", "Build the engine again."
            )
        if source not in [entry["sha256"] for entry in manifest["artefacts"]]:
            raise DhoxError(
                f"{path} was built from an ONNX file that is not in this export.", "Build the engine again."
            )
        return f"SHA-256 {digest[:12]}; its answers are checked where it is loaded"

    return attempt(name, "engine", check)

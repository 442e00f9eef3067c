"""dhox verify on both sides of every check: whole exports pass, and each kind of damage is found and named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from plain_files import write_json, write_npz
from refusals import named, refuses
from synthetic_engine import engine_content

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.cli.main import main
from dhox.models.export_directory import open_export
from dhox.models.golden import check_golden
from dhox.models.verify import Check, verify

INT8 = {
    "to": "int8", "quantised": [], "returned": [], "share": 1.0, "method": "minmax", "n_calibration": 1, "n_judge": 1,
    "labelled": True, "max_drop": 1.0, "drop": 0.0, "advice": None,
}  # fmt: skip


@pytest.fixture
def export(line: Path, tmp_path: Path) -> Path:
    shutil.copytree(line / "runs/tiny/export", tmp_path / "export")
    return tmp_path / "export"


def manifest(export: Path) -> dict:
    content: dict = json.loads((export / "manifest.json").read_text())
    return content


def mend(export: Path, name: str) -> None:
    """Write the hash of a changed file into the manifest, as somebody would who wants it to look whole."""
    content = manifest(export)
    for entry in content["artefacts"]:
        if entry["file"] == name:
            entry["sha256"] = sha256(export / name)
    if name in content["files"]:
        content["files"][name] = sha256(export / name)
    write_json(export / "manifest.json", content)


def failures(export: Path) -> dict[tuple[str, str], str]:
    return {(row.file, row.what): row.found for row in verify(export, "cpu") if row.passed is False}


def test_a_whole_export_passes_every_check(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = verify(export, "cpu")
    assert all(row.passed for row in rows)
    assert {(row.file, row.what) for row in rows} == {
        *((name, "hash") for name in manifest(export)["files"]),
        *((f"model{half}.onnx", what) for half in ("", ".fp16") for what in ("hash", "metadata", "golden outputs")),
        ("golden.npz", "preprocessing"),
        ("golden.npz", "JPEG decoder"),
    }
    before = {path.name: sha256(path) for path in export.iterdir()}
    assert run(capsys, export) == (0, "")
    assert {path.name: sha256(path) for path in export.iterdir()} == before


def run(capsys: pytest.CaptureFixture[str], export: Path, *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["verify", str(export), "--device", "cpu", *options])
    return int(str(end.value.code)), " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx", "golden.npz", "heads.npz", "val.npz", "ledger.json"])
def test_one_flipped_bit_and_a_missing_file_are_named(
    export: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((export / name).read_bytes())
    content[len(content) // 2] ^= 1
    (export / name).write_bytes(content)
    assert set(failures(export)) == {(name, "hash")}
    code, error = run(capsys, export)
    assert code == 3
    assert all(named(fact, error) for fact in (name, "manifest.json", "SHA-256"))
    (export / name).unlink()
    assert named("missing", failures(export)[name, "hash"])


def rename_class(content: dict) -> None:
    content["classes"][1]["name"] = "gown"


def resize(content: dict) -> None:
    content["preprocessing"]["mean"] = [0.485, 0.456, 0.406]


def refold(content: dict) -> None:
    content["fold"]["alpha"] = 0.123


def reopset(content: dict) -> None:
    content["artefacts"][0]["opset"] = 17


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (rename_class, ["classes", '["bag", "dress", "sandal", "trousers"]', '["bag", "gown"']),
        (resize, ["preprocessing"]),
        (refold, ["fold"]),
        (reopset, ["opset", 18, 17]),
    ],
)
def test_a_model_that_does_not_belong_to_its_manifest_is_found(
    export: Path, change: Callable[[dict], None], found: list
) -> None:
    content = manifest(export)
    change(content)
    write_json(export / "manifest.json", content)
    assert all(named(fact, failures(export)["model.onnx", "metadata"]) for fact in found)


@pytest.mark.parametrize(("factor", "passes"), [(1 + 1e-6, True), (1.1, False)])
def test_changed_weights_behind_a_mended_hash_are_caught_by_the_golden_outputs(
    export: Path, factor: float, passes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(export / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, export / "model.onnx")
    mend(export, "model.onnx")
    assert set(failures(export)) == (set() if passes else {("model.onnx", "golden outputs")})
    code, error = run(capsys, export)
    assert code == (0 if passes else 3)
    assert passes or named("model.onnx", error)


def test_a_model_that_answers_nan_or_does_not_run_is_found(export: Path) -> None:
    model = onnx.load(export / "model.onnx")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(np.nan), weight.name))
    onnx.save(model, export / "model.onnx")
    mend(export, "model.onnx")
    assert "not finite" in failures(export)["model.onnx", "golden outputs"]
    gemm.op_type = "Unheard"
    onnx.save(model, export / "model.onnx")
    mend(export, "model.onnx")
    assert "Unheard" in failures(export)["model.onnx", "golden outputs"]


def change_golden(export: Path, change: Callable[[dict[str, np.ndarray]], None]) -> set[tuple[str, str]]:
    golden = read_npz(export / "golden.npz")
    change(golden)
    write_npz(export / "golden.npz", **golden)
    mend(export, "golden.npz")
    return set(failures(export))


def one_pixel(golden: dict[str, np.ndarray]) -> None:
    golden["input"][3, 5, 5, 0] ^= 1  # as another resampling kernel would round


def jpeg_by(amount: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(golden: dict[str, np.ndarray]) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(golden["jpeg"].tobytes())).convert("RGB")).astype(int)
        golden["jpeg_pixels"] = np.where(pixels > 128, pixels - amount, pixels + amount).astype(np.uint8)

    return change


def probs_by(amount: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(golden: dict[str, np.ndarray]) -> None:
        golden["probs"][0] += np.float32(amount) * np.array([1, -1, 0, 0], np.float32)

    return change


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (one_pixel, {("golden.npz", "preprocessing")}),
        (jpeg_by(2), set()),
        (jpeg_by(3), {("golden.npz", "JPEG decoder")}),
        (probs_by(0.9e-4), set()),
        (probs_by(1.2e-4), {("model.onnx", "golden outputs")}),
        (probs_by(3e-2), {("model.onnx", "golden outputs"), ("model.fp16.onnx", "golden outputs")}),
        (lambda golden: golden.pop("jpeg"), {("golden.npz", "content")}),
        (lambda golden: golden.update(sizes=golden["sizes"][:-1]), {("golden.npz", "content")}),
        (lambda golden: golden.update(pixels=golden["pixels"].astype(np.int64)), {("golden.npz", "content")}),
        (lambda golden: golden.update(probs=golden["probs"][:, :3]), {("golden.npz", "content")}),
    ],
)
def test_golden_tolerances_have_two_sides(
    export: Path, change: Callable[[dict[str, np.ndarray]], None], failing: set[tuple[str, str]]
) -> None:
    assert change_golden(export, change) == failing


def test_quantised_graphs_are_held_to_the_agreement_of_the_manifest(export: Path) -> None:
    opened = open_export(export)
    golden, preprocessing = opened.golden(), opened.manifest.preprocessing

    def flipped(n: int) -> np.ndarray:
        probs = golden.probs.copy()
        probs[:n] = probs[:n, ::-1] * 0.9 + 0.025
        return probs

    for stored in (1.0, 30 / 32):
        for more, passes in ((0, True), (1, True), (2, False)):
            wrong = round(32 * (1 - stored)) + more
            result = check_golden(golden, lambda _, w=wrong: flipped(w), "int8", preprocessing, stored)  # type: ignore[misc]
            assert (result.passed, round(32 * result.agreement)) == (passes, 32 - wrong)

    content = manifest(export)
    content["artefacts"][1] |= {"precision": "int8", "conversion": INT8}
    content["default"] = "int8"
    write_json(export / "manifest.json", content)
    unknown = "not run: the manifest has no agreement for int8"
    assert Check("model.fp16.onnx", "golden outputs", None, unknown) in verify(export)
    content["artefacts"][1] |= {"golden_agreement": 1.0}
    write_json(export / "manifest.json", content)
    assert failures(export) == {}
    assert change_golden(export, lambda arrays: arrays.update(probs=arrays["probs"][:, ::-1].copy())) == {
        ("model.onnx", "golden outputs"), ("model.fp16.onnx", "golden outputs"),
    }  # fmt: skip


def test_engines_are_held_to_their_sidecars(export: Path) -> None:
    folder = export / "engines/sm87-trt10-fp16-00000000"
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(b"plan")
    sidecar = engine_content(sha256(folder / "model.engine"), sha256(export / "model.fp16.onnx"))
    row = ("engines/sm87-trt10-fp16-00000000", "engine")
    write_json(folder / "engine.json", sidecar)
    assert (*row, True) in [(found.file, found.what, found.passed) for found in verify(export, "cpu")]
    write_json(folder / "engine.json", sidecar | {"onnx": {"file": "a.onnx", "sha256": "0" * 64}})
    assert named("ONNX", failures(export)[row])
    write_json(folder / "engine.json", {"schema": "dhox.engine/2", "status": "complete"})
    assert "missing required field" in failures(export)[row]
    write_json(folder / "engine.json", sidecar)
    (folder / "model.engine").write_bytes(b"another plan")
    assert named("sidecar", failures(export)[row])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("preprocessing"),
        lambda content: content["artefacts"][0].pop("input"),
        lambda content: content["files"].pop("golden.npz"),
        lambda content: content.update(classes=["bag"]),
        lambda content: content["preprocessing"].update(crop="28"),
    ],
)
def test_a_manifest_that_dhox_did_not_write_is_an_error(export: Path, change: Callable[[dict], None]) -> None:
    content = manifest(export)
    change(content)
    write_json(export / "manifest.json", content)
    with refuses("manifest.json", at="artefacts.record.decode"):
        verify(export, "cpu")


@pytest.mark.parametrize("name", ["../secret.npz", "/etc/passwd", "a\nb", ""])
def test_names_that_leave_the_folder_are_refused(export: Path, name: str) -> None:
    content = manifest(export)
    content["files"][name] = "0" * 64
    write_json(export / "manifest.json", content)
    with refuses("manifest.json", "files", at="artefacts.record.decode"):
        verify(export, "cpu")


def test_json_says_the_same_as_the_table(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (export / "heads.npz").unlink()
    with pytest.raises(SystemExit) as end:
        main(["verify", str(export), "--device", "cpu", "--json"])
    assert end.value.code == 3
    content = json.loads(capsys.readouterr().out)
    assert (content["schema"], content["passed"]) == ("dhox.verify/1", False)
    assert [row["file"] for row in content["checks"] if row["passed"] is False] == ["heads.npz"]
    assert len(content["checks"]) == len(verify(export, "cpu"))

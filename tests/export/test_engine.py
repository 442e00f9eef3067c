"""Engines of an export, built by the real TensorRT-RTX compiler on the CPU, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from msgspec.structs import replace
from refusals import refuses

from dhox.artefacts.engine import Engine, EngineOptions
from dhox.artefacts.files import sha256
from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import model_metadata
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.export.camera.run import add_cameras
from dhox.export.engines import compile_engine, engine
from dhox.export.engines.compile_engine import build_error
from dhox.export.engines.engine import build_engines, find_gpu
from dhox.export.engines.precision_proof import layers_of_log
from dhox.export.half_precision.convert import convert
from dhox.export.options import Engines, TargetOptions
from dhox.models import engines
from dhox.models.export_directory import Export, open_export
from dhox.models.verify import verify
from dhox.options.declare import build
from dhox.reports.pages.export import engines_page
from dhox.reports.terminal import show
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.tensorrt_api import TensorRT, import_tensorrt

pytest.importorskip("tensorrt_rtx")

COMPILE = "export.engines.compile_engine"
PROMISE = "export.engines.precision_proof.check_promise"


@pytest.fixture
def export(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export of a user who never built an engine, on a machine without a GPU."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "find_gpu", lambda trt: None)
    monkeypatch.setattr(engine, "import_tensorrt", lambda: import_tensorrt("tensorrt_rtx"))
    shutil.copytree(line / "runs/tiny/export", tmp_path / "export", ignore=shutil.ignore_patterns("engines"))
    return tmp_path / "export"


def built_by(export: Path, overwrite: bool = False, **options: Any) -> list[Engine]:
    """As `dhox export EXPORT --tensorrt` with these options builds."""
    return build_engines(export, build(TargetOptions, **options).engines, overwrite)


def metadata(export: Path) -> dict[str, Any]:
    manifest = open_export(export).manifest
    return model_metadata(manifest.names, manifest.preprocessing, manifest.fold)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def replace_model(export: Path, precision: str, content: bytes, share: float = 1.0) -> None:
    """Another ONNX file under a precision of the manifest, with its hash and the share that it promises."""
    manifest = json.loads((export / "manifest.json").read_text())
    entry = next(entry for entry in manifest["artefacts"] if entry["precision"] == precision)
    (export / entry["file"]).write_bytes(content)
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    if entry["conversion"]:
        entry["conversion"]["share"] = share
    (export / "manifest.json").write_text(json.dumps(manifest))


def test_engines_are_built_proven_and_recorded(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(export)
    built = built_by(export, precision=["fp32", "fp16"], batch="1:4:8", workspace=256)
    assert {name: digest for name, digest in contents(export).items() if not name.startswith("engines")} == before
    for sidecar, precision in zip(built, ("fp32", "fp16"), strict=True):
        folder = export / "engines" / sidecar.folder
        assert re.fullmatch(rf"any-rtx[\d.]+-{precision}-[0-9a-f]{{8}}", folder.name)
        assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.engine"]
        assert engines.read_sidecar(folder) == sidecar
        assert sidecar.onnx.sha256 == sha256(export / sidecar.onnx.file)
        assert sidecar.compiled is not None
        assert sidecar.parsed.share == sidecar.compiled.share == 1.0
        assert sidecar.compiled.source == "builder's log"
        assert sidecar.golden is None
        assert str(sidecar.golden_note).startswith("not run: no GPU here")
        assert sidecar.options == EngineOptions(1, 4, 8, 256)
        assert hashlib.sha256(engines.read_plan(folder, sidecar, trust_engine=False)).hexdigest() == sha256(
            folder / "model.engine"
        )
    show(engines_page(export, built))
    printed = capsys.readouterr().out
    assert "100 % fp16" in printed
    assert "golden not run: no GPU here" in printed


def test_an_engine_is_replaced_only_when_asked(export: Path) -> None:
    (built,) = built_by(export)
    assert built.precision == "fp16"  # the export's default
    before = contents(export / "engines")
    with refuses("engines", at="artefacts.files.check_output", fix="--overwrite"):
        built_by(export)
    assert contents(export / "engines") == before
    built_by(export, batch="2")
    assert len(list((export / "engines").iterdir())) == 2
    built_by(export, overwrite=True)
    assert len(list((export / "engines").iterdir())) == 2


def test_no_silent_fp32_engine(export: Path) -> None:
    replace_model(export, "fp16", (export / "model.onnx").read_bytes())
    with refuses("fp16", "0%", "16 fp32", at=PROMISE, fix="fp16", kind=GateFailedError):
        built_by(export, precision=["fp16"])
    assert not list((export / "engines").iterdir())


def test_an_engine_that_loses_its_precision_is_not_kept(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT keeps its promise, so here its log is made to say another type."""
    monkeypatch.setattr(
        engine, "layers_of_log", lambda text: layers_of_log(text.replace("Datatype: Half", "Datatype: Float"))
    )
    with refuses("fp16", "100%", "0%", "16 fp32", at=PROMISE, fix="--dla", kind=GateFailedError):
        built_by(export)
    assert not list((export / "engines").iterdir())


def test_what_the_compiler_computes_otherwise_is_named(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TensorRT-RTX 1.7.1 rounds the weights of a convolution that an fp16 file keeps in fp32 between two casts."""
    fp32 = (export / "model.onnx").read_bytes()
    convolutions = [node.name for node in onnx.load_from_string(fp32).graph.node if node.op_type == "Conv"]
    kept = convolutions[len(convolutions) // 2]
    replace_model(export, "fp16", convert(fp32, metadata(export), {kept: "a test"}))
    with refuses("100%", "94%", "15 fp16, 1 fp32", at=PROMISE, fix="TensorRT", kind=GateFailedError):
        built_by(export, precision=["fp16"])
    replace_model(export, "fp16", convert(fp32, metadata(export), {kept: "a test"}), share=15 / 16)
    (built,) = built_by(export, precision=["fp16"])
    assert built.parsed.products == {"fp16": len(convolutions), "fp32": 1}  # less the kept one, plus the matrix product
    assert built.compiled is not None
    assert built.compiled.differs == {kept: ("fp32", "fp16")}
    show(engines_page(export, [built]))
    assert f"in another precision than the file states: {kept} fp32 -> fp16" in capsys.readouterr().out


def test_the_parsers_own_words(export: Path) -> None:
    """TensorRT refuses what ONNX Runtime takes: a transposed uint8 tensor."""
    model = onnx.load(export / "model.onnx")
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    permute = next(node for node in model.graph.node if node.op_type == "Transpose")
    cast.op_type, permute.op_type = "Transpose", "Cast"
    kept = list(cast.attribute)
    del cast.attribute[:]
    cast.attribute.extend(permute.attribute)
    del permute.attribute[:]
    permute.attribute.extend(kept)
    replace_model(export, "fp32", model.SerializeToString())
    with refuses("model.onnx", "first input has type UInt8 but must have", at=f"{COMPILE}.compile_onnx"):
        built_by(export, precision=["fp32"])
    replace_model(export, "fp32", b"not an ONNX file")
    with refuses("model.onnx", "ONNX", at="models.onnx_file.read_onnx"):
        built_by(export, precision=["fp32"])


@pytest.mark.parametrize(
    ("location", "at"),
    [("../secret.bin", "models.onnx_file.check_onnx"), ("w.bin", "export.engines.compile_engine.compile_onnx")],
)
def test_weights_in_other_files_never_reach_the_parser(export: Path, location: str, at: str) -> None:
    """TensorRT-RTX 1.7 refuses `..` itself, but follows symbolic links, and looks in the working directory."""
    model = onnx.load(export / "model.onnx")
    weight = model.graph.initializer[0]
    for place in (export / "w.bin", export.parent / "secret.bin"):
        place.write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    replace_model(export, "fp32", model.SerializeToString())
    with refuses("model.onnx", repr(location), at=at):
        built_by(export, precision=["fp32"])


def test_too_little_workspace_says_what_to_do(export: Path) -> None:
    with refuses("workspace", at=f"{COMPILE}.compile_onnx", fix=("--workspace MIB", "--batch")):
        built_by(export, workspace=1)


def test_recorded_words_of_too_little_memory() -> None:
    """TensorRT 10 on a GPU: github.com/hmorimitsu/ptlflow/issues/65 and NVIDIA/TensorRT/issues/1917."""
    warnings = [
        "Skipping tactic 3 due to insufficient memory on requested size of 9385 detected for tactic 0x0000000000000004.\n"
        "Try decreasing the workspace size with IBuilderConfig::setMemoryPoolLimit().",
        "Tactic Device request: 9385MB Available: 7649MB. Device memory is insufficient to use tactic.",
    ]
    error = "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[Unsqueeze_93...]}.)"
    assert "not enough memory" in str(build_error([error], warnings))
    assert "could not build the engine (Error Code 10" in str(build_error([error], []))
    assert "it gives no reason" in str(build_error([], []))


@pytest.mark.parametrize(
    ("options", "at", "facts", "fix"),
    [
        ({"precision": ["int8"]}, "models.export_directory.entry", ["int8"], "fp32, fp16"),
        (
            {"hardware_compatible": True},
            f"{COMPILE}._set_compatibility",
            ["hardware-compatible"],
            "--hardware-compatible",
        ),
        ({"version_compatible": True}, f"{COMPILE}.compile_onnx", ["libnvinfer_lean.so.1"], "--version-compatible"),
        ({"dla": 0, "batch": "8"}, f"{COMPILE}._use_dla", ["--dla 0", "0 DLA cores"], "--dla"),
    ],
)
def test_what_this_tensorrt_cannot_do(export: Path, options: dict[str, Any], at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=at, fix=fix):
        built_by(export, **options)
    assert not list((export / "engines").glob("*"))


@pytest.mark.parametrize(
    ("options", "at", "facts", "fix"),
    [
        ({"workspace": 0}, "options.declare.checked", ["--workspace 0"], ()),
        ({"dla": 0}, "export.options.check_engines", ["DLA"], ("--batch", "--dla")),
        ({"dla": 0, "batch": "4", "precision": ["fp32"]}, "export.engines.engine", ["DLA", "fp16", "int8"], "--dla"),
        ({"dla": 0, "batch": "4", "hardware_compatible": True}, "export.options", ["--dla"], "--hardware-compatible"),
    ],
)
def test_contradictory_options(export: Path, options: dict[str, Any], at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=at, fix=fix, kind=UsageError):
        built_by(export, **options)


@pytest.mark.parametrize(("text", "batches"), [("1:8:16", (1, 8, 16)), ("4", (4, 4, 4)), (" 1:1:1 ", (1, 1, 1))])
def test_batches(text: str, batches: tuple[int, int, int]) -> None:
    assert Engines(batch=text).batches == batches


@pytest.mark.parametrize("text", ["", "0:8:16", "8:1:16", "1:16:8", "1:8", "1:8:16:32", "a:b:c", "-1:8:16", "1.5", "0"])
def test_malformed_batches(text: str) -> None:
    with refuses(f"--batch {text}", "MIN:OPT:MAX", at="export.options.batches", fix="--batch 1:8:16", kind=UsageError):
        _ = Engines(batch=text).batches


def test_a_full_disk_leaves_earlier_engines(export: Path) -> None:
    """A limit on the size of files stands for the end of the disk."""
    built_by(export, precision=["fp32"])
    before = contents(export / "engines")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with refuses("model.engine", at="artefacts.files.write_files"):
            built_by(export, precision=["fp16"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(export / "engines") == before


def test_damaged_models_are_not_built(export: Path) -> None:
    with (export / "model.fp16.onnx").open("ab") as file:
        file.write(b"!")
    with refuses("model.fp16.onnx", "manifest.json", "SHA-256", at="artefacts.files.check_hash"):
        built_by(export)


def test_tensorrt_proper_needs_the_gpu() -> None:
    try:
        engines.gpu()
        pytest.skip("there is a GPU")
    except DhoxError:
        pass
    with refuses("TensorRT", at="export.engines.engine.find_gpu", fix="CUDA"):
        find_gpu(TensorRT(None, "tensorrt", "10.3.0"))
    assert find_gpu(TensorRT(None, "tensorrt_rtx", "1.7.1")) is None


def test_timing_caches_are_kept_per_device_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = {
        compile_engine.timing_cache_file(TensorRT(None, "tensorrt", version), device)
        for version in ("10.3.0", "10.13.3.9")
        for device in (Gpu("Orin", "8.7"), Gpu("NVIDIA Thor/iGPU", "11.0"))
    }
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path / "dhox/timing"}


def test_the_ledger_of_an_engine_is_of_the_exports_images(export: Path) -> None:
    """With ONNX Runtime's session in the place of the engine's: both are called alike."""
    opened = open_export(export)
    entry = opened.entry("fp32")
    found, note = engine.engine_ledger(opened, entry, OnnxSession(export / entry.file))
    exported = next(row for row in opened.ledger().rows if row.stage == "onnx_fp32")
    assert note is None
    assert found is not None
    assert (found.correct, found.n, found.agreement) == (exported.correct, 80, 1)
    moved = Export(export, replace(opened.manifest, data="/nowhere"))
    assert engine.engine_ledger(moved, entry, None) == (None, "not run: no images at /nowhere. Give --data.")  # type: ignore[arg-type]


def test_engines_of_camera_files_are_built_and_verified(export: Path) -> None:
    (camera,) = add_cameras(export, [Camera(96, 64, "nv12", "bt601", "limited")])
    (sidecar,) = build_engines(export, build(TargetOptions, batch="1:2:4").engines, cameras=[camera])
    assert sidecar.onnx.file == camera.file
    assert sidecar.onnx.sha256 == camera.sha256
    assert sidecar.parsed.share == 1.0  # the products of preprocessing, too
    assert sidecar.compiled is not None
    assert all(row.passed is not False for row in verify(export, "cpu"))
    shutil.rmtree(export / "cameras")
    assert [row.what for row in verify(export, "cpu") if row.passed is False] == ["engine"]

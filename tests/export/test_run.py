from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from refusals import refuses
from run_example import rehash
from tensorrt_rtx_build import build

import dhox
import dhox.bench
from dhox import export
from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.cli.main import main
from dhox.distill.small_options import Chosen, RetuneOptions
from dhox.errors import GateFailedError, UsageError
from dhox.export import run as export_module
from dhox.export.parity import check_against_torch, onnx_probs
from dhox.export.retuning.run import retune_export
from dhox.models.verify import verify


def content(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_the_export_directory_holds_the_contract(line: Path) -> None:
    folder = line / "runs/tiny/export"
    manifest, ledger = content(folder, "manifest.json"), content(folder, "ledger.json")
    assert "chose alpha and beta" in ledger["images"]  # of 80 validation images all select
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "model.onnx", "model.fp16.onnx", "heads.npz", "val.npz", "images.npz", "golden.npz",
        "ledger.json", "example.py", "MODEL_CARD.md",
    }  # fmt: skip
    for entry in manifest["artefacts"]:
        assert entry["sha256"] == sha256(folder / entry["file"])
        assert (entry["opset"], entry["ir"], entry["input"]) == (18, 10, "uint8-nhwc")
        model = onnx.load(folder / entry["file"])
        properties = {p.key: json.loads(p.value) for p in model.metadata_props}
        assert properties["dhox.classes"] == ["bag", "dress", "sandal", "trousers"]
        assert properties["dhox.preprocessing"] == manifest["preprocessing"]
        assert (
            build(folder / entry["file"])["HALF"] > 0
            if entry["precision"] == "fp16"
            else build(folder / entry["file"])["HALF"] == 0
        )
    assert manifest["default"] == "fp16"
    for name, digest in manifest["files"].items():
        assert sha256(folder / name) == digest
    assert [row["stage"] for row in ledger["rows"]] == [
        "teacher",
        "trained",
        "two_head_torch",
        "folded_torch",
        "onnx_fp32",
        "onnx_fp16",
    ]
    assert [row["n"] for row in ledger["rows"]] == [80] * 6
    assert {check["precision"]: check["largest_difference"] <= check["tolerance"] for check in manifest["checks"]} == {
        "fp32": True,
        "fp16": True,
    }
    golden = read_npz(folder / "golden.npz")
    assert golden["input"].shape == (32, 28, 28, 3)
    assert golden["input"].dtype == np.uint8
    assert golden["probs"].shape == (32, 4)
    assert np.allclose(golden["probs"].sum(-1), 1, atol=1e-5)
    assert golden["jpeg"][:2].tolist() == [0xFF, 0xD8]


@pytest.mark.slow
def test_equal_runs_give_equal_model_bytes(line: Path) -> None:
    first = export(line / "runs/tiny", Path("a"), fp16=True).manifest
    second = export(line / "runs/tiny", Path("b"), fp16=True).manifest
    assert [entry.sha256 for entry in first.artefacts] == [entry.sha256 for entry in second.artefacts]


@pytest.mark.parametrize(
    ("options", "rule", "rows"),
    [
        ({"fold_rule": "exact"}, "exact", 8),
        ({"fold_rule": "linear"}, "linear", 4),
        pytest.param({"fold_heads": False}, "heads", 4, marks=pytest.mark.slow),
        pytest.param({"fold_rule": "exact", "input": "float-nchw"}, "exact", 8, marks=pytest.mark.slow),
        pytest.param(
            {"fold_rule": "exact", "input": "float-nchw-255", "fp16": True}, "exact", 8, marks=pytest.mark.slow
        ),
    ],
)
def test_rules_and_inputs(line: Path, options: dict, rule: str, rows: int) -> None:
    manifest = export(line / "runs/tiny", Path("e"), **options).manifest
    assert manifest.fold.rule == rule
    assert [entry.precision for entry in manifest.artefacts] == ["fp32", "fp16"][: 1 + options.get("fp16", False)]
    assert build(Path("e/model.onnx")).total() > 0
    assert all(row.passed for row in verify(Path("e"), "cpu"))
    graph = onnx.load("e/model.onnx").graph
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in graph.initializer if tensor.name == gemm.input[1])
    assert rows in weight.dims
    kind = graph.input[0].type.tensor_type
    uint8 = options.get("input") is None
    assert kind.elem_type == (onnx.TensorProto.UINT8 if uint8 else onnx.TensorProto.FLOAT)
    assert [d.dim_value for d in kind.shape.dim][1:] == ([28, 28, 3] if uint8 else [3, 28, 28])


def test_auto_without_evidence_is_exact_and_agrees_with_two_heads(line: Path) -> None:
    ledger = content(line / "runs/tiny/export", "ledger.json")
    manifest = content(line / "runs/tiny/export", "manifest.json")
    assert manifest["fold"]["rule"] == "exact"
    assert not manifest["evidence"]["passed"]
    assert {row["stage"]: row["agreement"] for row in ledger["rows"]}["folded_torch"] == 1


@pytest.mark.parametrize("method", ["ce", pytest.param("kd", marks=pytest.mark.slow)])
def test_single_head_runs_export(line: Path, method: str) -> None:
    demo_teacher = f"local-dir:{Path(__file__).parents[2] / 'src/dhox/demo/teacher'}"
    dhox.distill(  # type: ignore[operator]
        line / "data",
        Path("r"),
        teacher=demo_teacher,
        student="test_resnet",
        student_weights="none",
        image_size=28,
        epochs=1,
        method=method,
        **({"shots": 4} if method == "ce" else {}),
    )
    result = export(Path("r"), Path("r/export"))
    assert result.manifest.fold.rule == "single"
    assert result.manifest.comparison == []
    assert result.ledger.rows[-1].stage == "onnx_fp32"
    assert build(Path("r/export/model.onnx")).total() > 0


def test_unfinished_foreign_and_damaged_runs_are_named(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    with refuses("run.json", at="artefacts.run.read_run"):
        export(own_line, Path("e"))
    summary = content(run, "run.json")
    shutil.copytree(run, own_line / "runs/killed.partial")
    (own_line / "runs/killed.partial/run.json").write_text(json.dumps(summary | {"status": "running"}))
    with refuses("runs/killed.partial", at="artefacts.run.read_run", fix="dhox distill"):
        export(own_line / "runs/killed", Path("e"))
    (run / "run.json").write_text(json.dumps(summary | {"status": "running"}))
    with refuses("runs/tiny", at="artefacts.run.read_run", fix="dhox distill"):
        export(run, Path("e"))
    (run / "run.json").write_text(json.dumps(summary))
    (run / "student.safetensors").write_bytes(b"no weights at all")
    rehash(run)
    with refuses("student.safetensors", "run.json", at="distill.students.student.load_student"):
        export(run, Path("e"))
    assert not Path("e").exists()


def test_moved_images_are_found_with_data(own_line: Path) -> None:
    summary = content(own_line / "runs/tiny", "run.json")
    (own_line / "runs/tiny/run.json").write_text(json.dumps(summary | {"data": "/nowhere"}))
    with refuses("/nowhere", at="export.check_images.check_images", fix="--data"):
        export(own_line / "runs/tiny", Path("e"))
    assert export(own_line / "runs/tiny", Path("e"), data=own_line / "data").manifest.data == str(own_line / "data")
    (own_line / "data/val/bag/000.png").unlink()
    with refuses(1, "val/bag/000.png", at="export.check_images._found_again", fix="--data"):
        export(own_line / "runs/tiny", Path("f"), data=own_line / "data")


def test_a_graph_that_answers_otherwise_fails_the_gate_and_writes_nothing(
    line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export_module, "onnx_probs", lambda content, pixels, *_: np.full((len(pixels), 4), 0.25, np.float32)
    )
    with refuses("fp32", 0.0001, at="export.parity.passed", kind=GateFailedError):
        export(line / "runs/tiny", Path("e"))
    assert not Path("e").exists()
    assert not Path("e.partial").exists()


@pytest.mark.parametrize(("precision", "inside", "outside"), [("fp32", 0.9e-4, 1.2e-4), ("fp16", 1.9e-2, 2.2e-2)])
def test_tolerances_have_two_sides(precision: str, inside: float, outside: float) -> None:
    reference = np.array([[0.5, 0.5]])
    assert check_against_torch(precision, reference + inside, reference).agreement == 1
    with refuses(precision, outside, at="export.parity.passed", kind=GateFailedError):
        check_against_torch(precision, reference + outside, reference)
    with refuses(precision, "inf", at="export.parity.passed", kind=GateFailedError):
        check_against_torch(precision, reference * np.nan, reference)


@pytest.fixture(scope="module")
def every(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the tiny run in every precision, with a reject threshold."""
    out = tmp_path_factory.mktemp("every") / "export"
    export(line / "runs/tiny", out, fp16=True, int8=True, reject_coverage=0.9, max_accuracy_drop=5)
    return out


def test_every_precision_has_its_opset_account_and_ledger_row(every: Path) -> None:
    manifest, ledger = content(every, "manifest.json"), content(every, "ledger.json")
    entries = {entry["precision"]: entry for entry in manifest["artefacts"]}
    assert {name: (entry["opset"], entry["ir"]) for name, entry in entries.items()} == {
        "fp32": (18, 10), "fp16": (18, 10), "int8": (19, 10),
    }  # fmt: skip
    for entry in entries.values():
        model = onnx.load(every / entry["file"])
        assert (model.opset_import[0].version, model.ir_version) == (entry["opset"], entry["ir"])
        assert build(every / entry["file"]).total() > 0
    assert entries["fp32"]["conversion"] is None
    assert entries["fp16"]["conversion"]["share"] == 1
    assert entries["int8"]["conversion"]["quantised"]
    assert entries["int8"]["bytes"] < entries["fp16"]["bytes"] < entries["fp32"]["bytes"]
    assert manifest["default"] == "int8"
    assert [row["stage"] for row in ledger["rows"]][-3:] == ["onnx_fp32", "onnx_fp16", "onnx_int8"]
    assert {check["precision"]: check["tolerance"] for check in manifest["checks"]} == {
        "fp32": 1e-4, "fp16": 2e-2, "int8": None,
    }  # fmt: skip
    assert 0 < manifest["reject"]["threshold"] < 1


def test_bench_and_verify_run_every_precision(every: Path) -> None:
    found = dhox.bench(every, out="b", duration=0.05, energy=0, batch="1", scope="e2e")
    assert found.bench.passed
    assert found.bench.not_run == []
    assert [row.model for row in found.bench.golden] == ["fp32", "fp16", "int8"]
    assert [row.model for row in found.bench.latency] == ["fp32"]  # the CPU emulates the others
    rows = verify(every, "cpu")
    assert {row.passed for row in rows} == {True}


def test_a_retuned_export_holds_every_precision_and_verifies(every: Path) -> None:
    retuned = retune_export(every, Path("r"), RetuneOptions(chosen=Chosen(alpha=0.3, beta=0.8)))
    assert [entry.precision for entry in retuned.manifest.artefacts] == ["fp32", "fp16", "int8"]
    assert {row.passed for row in verify(Path("r"), "cpu")} == {True}


def test_an_accuracy_drop_beyond_what_is_allowed_writes_nothing(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_another_image(*arguments: object) -> np.ndarray:
        return onnx_probs(*arguments)[::-1]  # type: ignore[arg-type]

    monkeypatch.setattr(export_module, "onnx_probs", of_another_image)
    monkeypatch.setattr(export_module, "check_against_torch", lambda *_: {"precision": "fp32"})
    with refuses("onnx_fp32", "trained", 80, at="export.accuracy_gate.check_accuracy_drop", kind=GateFailedError):
        export(line / "runs/tiny", Path("e"), max_accuracy_drop=3.0)
    with refuses(80, "1 points", at="export.accuracy_gate.check_enough_images", fix="163", kind=GateFailedError):
        export(line / "runs/tiny", Path("e"), max_accuracy_drop=1.0)
    assert not Path("e").exists()


def dhox_says(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dhox", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    return done.returncode, done.stdout + done.stderr


def test_one_command_takes_a_run_or_an_export(every: Path, own_line: Path) -> None:
    for words, facts, fix in (
        ([str(every), "--fp16", "--data", "x"], [every, "--fp16, --data"], ()),
        ([str(every)], [every], "--tensorrt"),
        ([str(own_line / "runs/tiny"), "--batch", "1:2:4"], ["--batch", "--tensorrt"], ()),
    ):
        with refuses(*facts, at="export.options", fix=fix, kind=UsageError):
            main(["export", *words])
    before = sha256(every / "manifest.json")
    code, text = dhox_says(
        "export", str(every), "--emit", "triton", "--tensorrt", "--precision", "fp16", "--batch", "1:2:4"
    )
    assert code == 0, text
    served = next((every / "triton").glob("*/1/model.onnx"))
    assert (
        served.read_bytes() == (every / "model.fp16.onnx").read_bytes()
    )  # not int8, the default: see dhox.export.integrations.emit
    assert len(list((every / "engines").glob("*-fp16-*/engine.json"))) == 1
    assert sha256(every / "manifest.json") == before

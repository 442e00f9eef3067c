from __future__ import annotations

import json
import subprocess
import sys
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from plain_files import write_json

from dhox import export
from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.artefacts.heads import Heads
from dhox.artefacts.manifest import ExportResult, Fold
from dhox.cli.main import main
from dhox.distill.results.retune import retune
from dhox.distill.small_options import Chosen, RetuneOptions
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.evidence.dho_inference import dho_probs
from dhox.export.folding.head_weights import head_weights
from dhox.export.folding.refold import refold
from dhox.export.retuning import run as module
from dhox.models.classifier import load
from dhox.options.declare import build


def content(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / name).read_text())
    return read


def retune_export(export: Path, out: Path | None, **options: object) -> ExportResult:
    return module.retune_export(export, out, build(RetuneOptions, **options))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def linear(line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the rule linear, fp32, fp16 and int8 down to the head."""
    out = tmp_path_factory.mktemp("linear") / "export"
    export(line / "runs/tiny", out, fold_rule="linear", fp16=True, int8=True, quantize_head=True, max_accuracy_drop=5)
    return out


def test_the_same_question_gives_the_same_bytes(line: Path, linear: Path) -> None:
    for source in (line / "runs/tiny/export", linear):
        before = hashes(source)
        result = retune_export(source, Path("again"), overwrite=True)
        old, new = content(source), content(Path("again"))
        for entry, other in zip(new["artefacts"], old["artefacts"], strict=True):
            assert entry | {"conversion": None} == other | {"conversion": None}
            assert entry["conversion"] is None or entry["conversion"]["before_retuning"]
        assert new["fold"] == old["fold"]
        assert new["evidence"] == old["evidence"]
        assert new["comparison"] == old["comparison"]
        assert new["retuned_from"]["manifest_sha256"] == sha256(source / "manifest.json")
        assert result.ledger.predictions == content(source, "ledger.json")["predictions"]
        for name, digest in new["files"].items():
            assert sha256(Path("again", name)) == digest
        assert hashes(source) == before


def test_there_and_back_gives_the_first_bytes(line: Path, linear: Path) -> None:
    fold = content(line / "runs/tiny/export")["fold"]
    retune_export(line / "runs/tiny/export", Path("there"), alpha=0.9, beta=3.0)
    retune_export(Path("there"), Path("back"), alpha=fold["alpha"], beta=fold["beta"])
    assert content(Path("there"))["artefacts"] != content(Path("back"))["artefacts"]
    fold = content(linear)["fold"]
    retune_export(linear, Path("there2"), r=30.0)
    retune_export(Path("there2"), Path("back2"), r=fold["r"], tau=fold["tau"])
    for first, second in ((line / "runs/tiny/export", "back"), (linear, "back2")):
        for entry in content(first)["artefacts"]:
            one, two = (onnx.load(folder / entry["file"]) for folder in (first, Path(second)))
            assert [t.SerializeToString() for t in one.graph.initializer] == [
                t.SerializeToString() for t in two.graph.initializer
            ]


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(0.25, 2.0), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((0.0, 0.7), (1.0, 0.5)))],
)
def test_a_retuned_export_is_the_export_of_the_retuned_run(own_line: Path, alpha: float, beta: float) -> None:
    run = own_line / "runs/tiny"
    retune(run, Chosen(alpha=alpha, beta=beta))
    export(run, Path("fresh"), fold_rule="exact", fp16=True)
    retune_export(run / "export", Path("retuned"), alpha=alpha, beta=beta)
    fresh, retuned = content(Path("fresh")), content(Path("retuned"))
    for entry, other in zip(fresh["artefacts"], retuned["artefacts"], strict=True):
        assert entry | {"conversion": None} == other | {"conversion": None}
    assert [row["accuracy"] for row in fresh["comparison"]] == [row["accuracy"] for row in retuned["comparison"]]
    one, two = read_npz(Path("fresh/golden.npz")), read_npz(Path("retuned/golden.npz"))
    assert abs(one["probs"] - two["probs"]).max() < 1e-5
    stages = [row["stage"] for row in content(Path("retuned"), "ledger.json")["rows"]]
    assert stages == [row["stage"] for row in content(Path("fresh"), "ledger.json")["rows"]]


def test_models_answer_with_the_new_numbers(line: Path, linear: Path) -> None:
    retune_export(line / "runs/tiny/export", Path("e"), alpha=0.25, beta=2.0)
    retune_export(linear, Path("l"), r=inf, tau=3.0)
    val = read_npz(line / "runs/tiny/val.npz")
    paths = [line / "data" / name for name in val["names"][:20]]
    expected = dho_probs(val["ce_logits"], val["kd_logits"], 0.25, 2.0)[:20]
    assert abs(load("e", "cpu", "fp32")(paths) - expected).max() < 1e-4
    assert abs(load("e", "cpu", "fp16")(paths) - expected).max() < 2e-2
    fold = content(Path("l"))["fold"]
    assert (fold["c_ce"], fold["c_kd"], fold["r"], fold["tuned_on"]) == (0.0, pytest.approx(1 / 3), None, "given")
    expected = dho_probs(val["ce_logits"], val["kd_logits"], 0.0, 3.0)[:20]
    assert abs(load("l", "cpu", "fp32")(paths) - expected).max() < 1e-4
    assert (load("l", "cpu", "int8")(paths).argmax(-1) == expected.argmax(-1)).mean() > 0.8
    names = [tensor.name for tensor in onnx.load("l/model.int8.onnx").graph.initializer]
    assert "head.linear.weight_quantized" in names
    properties = {p.key: json.loads(p.value) for p in onnx.load("l/model.fp16.onnx").metadata_props}
    assert properties["dhox.fold"] == fold


@pytest.mark.slow
def test_kept_heads_are_retuned_too(line: Path) -> None:
    export(line / "runs/tiny", Path("kept"), fold_heads=False)
    retune_export(Path("kept"), Path("e"), alpha=0.3, beta=1.5)
    val = read_npz(line / "runs/tiny/val.npz")
    expected = dho_probs(val["ce_logits"], val["kd_logits"], 0.3, 1.5)[:8]
    assert abs(load("e", "cpu")([line / "data" / name for name in val["names"][:8]]) - expected).max() < 1e-4
    assert content(Path("e"))["fold"]["rule"] == "heads"


def test_what_cannot_be_retuned_is_said_and_nothing_is_written(own_line: Path, linear: Path) -> None:
    folder = own_line / "runs/tiny/export"
    before = hashes(own_line)
    with pytest.raises(UsageError, match=r"export .*rule exact.*--fold-rule linear"):
        retune_export(folder, Path("e"), r=1.0)
    with pytest.raises(UsageError, match=rf"{folder} .*--out"):
        retune_export(folder, folder, overwrite=True)
    for numbers, named in (
        ({"tau": inf}, "tau"),
        ({"r": float("nan")}, "--r nan"),
        ({"alpha": 0.5, "beta": inf}, "beta"),
    ):
        with pytest.raises(UsageError, match=named):
            retune_export(linear, Path("e"), **numbers)
    with pytest.raises(DhoxError, match=r"manifest\.json.*dhox export RUN"):
        retune_export(own_line, Path("e"))
    with pytest.raises(DhoxError, match=r"linear\.weight_fp16 .*fp16.*beta.*tau"):
        retune_export(linear, Path("e"), r=1e9, tau=1.0)
    Path("taken").mkdir()
    Path("taken/file").touch()
    with pytest.raises(DhoxError, match="taken .*--out"):
        retune_export(folder, Path("taken"), overwrite=True)
    assert hashes(own_line) == before
    manifest = content(folder)
    write_json(folder / "manifest.json", manifest | {"fold": manifest["fold"] | {"alpha": 0.123}})
    with pytest.raises(DhoxError, match=r"model\.onnx .*manifest\.json: fold"):
        retune_export(folder, Path("e"), alpha=0.5, beta=1.0)
    write_json(folder / "manifest.json", manifest)
    (folder / "heads.npz").write_bytes(b"")
    with pytest.raises(DhoxError, match=r"heads\.npz .*manifest\.json .*SHA-256"):
        retune_export(folder, Path("e"))
    assert not Path("e").exists()


def test_a_graph_that_answers_otherwise_fails_the_gate(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "refold", lambda content, *_: content)  # a rewriting that does nothing
    with pytest.raises(GateFailedError, match=r"fp32 .*heads\.npz in numpy"):
        retune_export(line / "runs/tiny/export", Path("e"), alpha=0.9, beta=3.0)
    assert not Path("e").exists()


def test_without_its_images_there_is_no_ledger_but_a_reason(own_line: Path) -> None:
    source = own_line / "runs/tiny/export"
    write_json(source / "manifest.json", content(source) | {"data": "/nowhere"})
    assert retune_export(source, None).ledger.note == "not run: no images at /nowhere. Give --data."
    without = retune_export(source, None)
    assert without.ledger.rows == []
    again = retune_export(without.export, Path("again"), data=own_line / "data")
    assert (again.ledger.note, len(again.ledger.rows)) == (None, 6)
    assert {path.name for path in (own_line / "runs/tiny").glob("export*")} == {
        "export", "export-retuned", "export-retuned-2",
    }  # fmt: skip
    moved = retune_export(source, None, data=own_line / "data", overwrite=True)
    assert moved.export.name == "export-retuned"
    assert len(moved.ledger.rows) == 6


def test_engines_are_left_out(own_line: Path) -> None:
    source = own_line / "runs/tiny/export"
    (source / "engines/sm").mkdir(parents=True)
    result = retune_export(source, Path("e"))
    assert result.manifest.retuned_from is not None
    assert result.manifest.retuned_from.left_out == ["engines"]
    assert not Path("e/engines").exists()


def test_the_command_takes_runs_and_exports(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    with pytest.raises(SystemExit) as end:
        main(["retune", str(run / "export"), "--alpha", "0.5", "--beta", "1", "--out", "e"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "alpha " in said
    assert "-> 0.5" in said
    with pytest.raises(SystemExit) as end:
        main(["retune", str(run), "--alpha", "0.5", "--beta", "1"])
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        main(["retune", str(run), "--tau", "2"])
    assert end.value.code == 2
    assert "is no export directory" in capsys.readouterr().err


def head_graph(tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto]) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])
    probs = helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "dhox", [image], [probs], tensors),
        opset_imports=[helper.make_opsetid("", 19)], ir_version=10,
    )  # fmt: skip
    model.metadata_props.add(key="dhox.fold", value="{}")
    return model.SerializeToString(deterministic=True)


def two_folds() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    heads = Heads(*(random.normal(0, 1, shape).astype(np.float32) for shape in [(3, 4), (3,)] * 2), np.array("linear"))
    return tuple(head_weights(heads, Fold("linear", 0.5, 1.0, c, 1.0)) for c in (1.0, 5.0))  # type: ignore[return-value]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_int8_weights_get_new_scales(per_channel: bool, half: bool) -> None:
    """As ONNX Runtime's quantiser writes a linear layer, scales in either type and listed one by one."""
    old, new = two_folds()
    real, floating = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)

    def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = np.asarray(abs(weight).max(axis=1 if per_channel else None) / 127, np.float32)
        return np.rint(weight / scale.reshape(-1, 1)).clip(-127, 127).astype(np.int8), scale.astype(real)

    steps, scale = quantised(old["linear.weight"])
    tensors = [
        numpy_helper.from_array(steps, "head.linear.weight_quantized"),
        helper.make_tensor("head.linear.weight_scale", floating, scale.shape, scale.ravel().tolist()),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), "head.linear.weight_zero_point"),
        numpy_helper.from_array(old["linear.bias"].astype(real), "head.linear.bias"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["z"], to=floating),
        helper.make_node("DequantizeLinear", [t.name for t in tensors[:3]], ["w"], axis=0),
        helper.make_node("Gemm", ["z", "w", "head.linear.bias"], ["logits"], transB=1),
        helper.make_node("Cast", ["logits"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["wide"], ["probs"]),
    ]
    content = head_graph(tensors, nodes)
    assert refold(content, old, old, {}) == content
    changed = onnx.load_from_string(refold(content, old, new, {"r": 1}))
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    steps, scale = quantised(new["linear.weight"])
    assert np.array_equal(found["head.linear.weight_quantized"], steps)
    assert np.array_equal(found["head.linear.weight_scale"], scale)
    assert np.array_equal(found["head.linear.bias"], new["linear.bias"].astype(real))
    assert refold(changed.SerializeToString(deterministic=True), new, old, {}) == content  # there and back


def test_fp16_and_refusals() -> None:
    old, new = two_folds()

    def graph(weight: np.ndarray, *more: onnx.NodeProto) -> bytes:
        tensors = [
            helper.make_tensor("head.linear.weight_fp16", TensorProto.FLOAT16, (3, 4), weight.ravel().tolist()),
            numpy_helper.from_array(old["linear.bias"], "head.linear.bias"),
        ]
        nodes = [
            helper.make_node("Cast", ["head.linear.weight_fp16"], ["w"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["image", "w", "head.linear.bias"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["probs"]),
        ]
        return head_graph(tensors, [*nodes, *more])

    changed = onnx.load_from_string(refold(graph(old["linear.weight"]), old, new, {}))
    weight = numpy_helper.to_array(changed.graph.initializer[0]).astype(np.float32)
    assert abs(weight - new["linear.weight"]).max() <= 2**-8 * abs(new["linear.weight"]).max()
    assert not np.array_equal(weight, new["linear.weight"])
    with pytest.raises(DhoxError, match=r"head\.linear\.weight .*heads\.npz"):
        refold(graph(new["linear.weight"]), old, new, {})
    again = helper.make_node("Identity", ["head.linear.bias"], ["other"])
    with pytest.raises(DhoxError, match=r"graph.*head\.linear\.bias"):
        refold(graph(old["linear.weight"], again), old, new, {})


def test_a_missing_onnx_is_named(line: Path) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\nfrom dhox.cli.main import main\n"
        f"main(['retune', {str(line / 'runs/tiny/export')!r}, '--alpha', '0.5', '--beta', '1', '--out', 'e'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "onnx could not be imported" in done.stderr
    assert not Path("e").exists()

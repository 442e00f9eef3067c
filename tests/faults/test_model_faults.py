"""Faults planted in exports: what verify, bench, predict and dhox.load say of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from plain_files import read_json, write_json

from dhox.artefacts.files import sha256
from dhox.cli.main import main


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return int(end.value.code or 0)


def bench(export: Path, *options: str) -> int:
    return command("bench", export, "--precision", "fp32", "--batch", "1", "--duration", "0.2", "--device", "cpu",
                   "--out", "b", *options)  # fmt: skip


@pytest.fixture
def export(own_line: Path) -> Path:
    return own_line / "runs/tiny/export"


def change(export: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    """Edit model.onnx, and its hash in the manifest."""
    model = onnx.load(export / "model.onnx")
    edit(model)
    onnx.save(model, export / "model.onnx")
    manifest = read_json(export / "manifest.json")
    manifest["artefacts"][0] |= {
        "sha256": sha256(export / "model.onnx"),
        "bytes": (export / "model.onnx").stat().st_size,
    }
    write_json(export / "manifest.json", manifest)


def bake_batch_of_32(model: onnx.ModelProto) -> None:
    """A reshape to 32 images right behind the input: the number of golden images."""
    graph = model.graph
    shape = [32, *(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:])]
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "baked"))
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == graph.input[0].name:
                node.input[i] = "reshaped"
    graph.node.insert(0, helper.make_node("Reshape", [graph.input[0].name, "baked"], ["reshaped"]))


def test_a_batch_size_baked_into_the_graph_is_found(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(export, bake_batch_of_32)
    assert command("verify", export) == 3
    assert "batch of 1" in " ".join(capsys.readouterr().out.split())
    assert bench(export) == 1
    assert "batch of 1" in " ".join(capsys.readouterr().err.split())


def test_a_bench_without_a_latency_is_a_failure(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fix_batch(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    change(export, fix_batch)
    assert bench(export, "--overwrite", "--batch", "4") == 0
    assert bench(export, "--overwrite", "--batch", "8") == 1
    assert "batches of 4" in " ".join(capsys.readouterr().err.split())


def test_classes_swapped_in_the_manifest_are_found_wherever_it_is_opened(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_json(export / "manifest.json")
    first, second = manifest["classes"][:2]
    manifest["classes"][:2] = [second | {"id": 0}, first | {"id": 1}]
    write_json(export / "manifest.json", manifest)
    image = next((export.parents[2] / "data/test").rglob("*.png"))
    for arguments in (("bench", export, "--out", "b"), ("predict", export, image), ("retune", export)):
        assert command(*arguments) == 1
        assert "classes" in capsys.readouterr().err
    assert command("verify", export) == 3


@pytest.mark.parametrize("field", ["mean", "crop", "interpolation"])
def test_another_preprocessing_in_the_manifest_is_found(
    export: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    manifest = read_json(export / "manifest.json")
    other = {"mean": [0.1, 0.1, 0.1], "crop": 20, "interpolation": "nearest"}
    manifest["preprocessing"][field] = other[field]
    write_json(export / "manifest.json", manifest)
    assert bench(export) == 1
    assert "preprocessing" in capsys.readouterr().err


def test_a_bench_blames_preprocessing_for_what_is_its_fault(
    export: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dhox.models import golden

    real = golden.model_input
    monkeypatch.setattr(golden, "model_input", lambda image, how: np.roll(real(image, how), 1, axis=0))
    image = next((export.parents[2] / "data/test").rglob("*.png"))
    for arguments in (("bench", export, "--precision", "fp32", "--batch", "1", "--duration", "0.1", "--out", "b"),
                      ("predict", export, image), ("verify", export)):  # fmt: skip
        assert command(*arguments) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert "preprocessing" in said
        assert "outputs:" not in said
    row = read_json(Path("b/bench.json"))["golden"][0]
    assert (row["outputs_passed"], row["input_equal"], row["passed"]) == (True, False, False)


def test_other_weights_in_a_model_are_blamed_on_its_outputs(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def zero(model: onnx.ModelProto) -> None:
        weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))

    change(export, zero)
    assert bench(export) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "outputs:" in said
    assert "preprocessing:" not in said


def rename(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "picture"
    for node in model.graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]


def floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def new_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


@pytest.mark.parametrize(("edit", "about"), [(rename, "picture"), (floats, "image"), (new_ir, "IR")])
@pytest.mark.parametrize("name", ["verify", "bench", "predict", "retune"])
def test_a_model_that_is_not_the_contract_is_one_message(
    export: Path, capsys: pytest.CaptureFixture[str], edit: Callable[[onnx.ModelProto], object], about: str, name: str
) -> None:
    change(export, edit)
    image = next((export.parents[2] / "data/test").rglob("*.png"))
    arguments: dict[str, tuple[object, ...]] = {
        "verify": (export,), "predict": (export, image), "retune": (export,),
        "bench": (export, "--precision", "fp32", "--batch", "1", "--duration", "0.2", "--out", "b"),
    }  # fmt: skip
    assert command(name, *arguments[name]) == (3 if name == "verify" else 1)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert about in printed.out + printed.err


@pytest.mark.parametrize("name", ["verify", "bench", "predict"])
def test_a_model_too_new_for_the_runtime_is_told_in_the_runtimes_words(
    export: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change(export, new_ir)
    manifest = read_json(export / "manifest.json")
    manifest["artefacts"][0]["ir"] = 99
    write_json(export / "manifest.json", manifest)
    image = next((export.parents[2] / "data/test").rglob("*.png"))
    arguments: dict[str, tuple[object, ...]] = {
        "verify": (export,), "predict": (export, image),
        "bench": (export, "--precision", "fp32", "--batch", "1", "--duration", "0.2", "--out", "b"),
    }  # fmt: skip
    assert command(name, *arguments[name]) == (3 if name == "verify" else 1)
    printed = capsys.readouterr()
    assert "Unsupported model IR version: 99" in " ".join((printed.out + printed.err).split())
    assert "onnxruntime::" not in printed.out + printed.err

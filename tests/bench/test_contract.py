"""Classifiers of other tools: what their files tell, contracts, refusals, and the same bench as for exports."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import CLASSES
from onnx import TensorProto, helper
from PIL import Image
from refusals import refuses

import dhox.bench
from dhox.artefacts.contract import read_contract
from dhox.bench.bench_models import check_batches, foreign_model, open_models
from dhox.data.images import model_input
from dhox.errors import DhoxError
from dhox.models.contract import check_model
from dhox.models.onnx_graph import read_graph
from dhox.runtimes.onnxruntime_api import open_session

SIDE = 32


def classifier(
    shape: Sequence[int | str] = ("batch", 3, SIDE, SIDE), dtype: int = TensorProto.FLOAT, classes: int = 4, softmax: bool = False,
    metadata: dict[str, str] | None = None, weights: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """The mean of everything, times one weight per class: a whole classifier in four nodes."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=weights),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["row"]),
        helper.make_node("MatMul", ["row", "weight"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["soft"])
        if softmax
        else helper.make_node("Identity", ["scores"], ["soft"]),
        helper.make_node("Cast", ["soft"], ["answer"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [shape[0], classes])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]), helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("weight", weights, [1, classes], weight),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="a test")
    model.ir_version = 10
    helper.set_model_props(model, metadata or {})
    return model


def saved(model: onnx.ModelProto, folder: Path, name: str = "own") -> Path:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


CONTRACT = """\
schema = "dhox.contract/1"
classes = "own.classes.txt"

[input]
name = "pixels"
layout = "nchw"
dtype = "float32"
colour = "rgb"

[preprocessing]
fit = "crop"
resize = 32
crop = 32
interpolation = "bilinear"
range = 1
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[output]
name = "answer"
kind = "logits"
"""


def agreed(path: Path, *changes: tuple[str, str], classes: tuple[str, ...] = CLASSES) -> Path:
    """CONTRACT with changed texts, beside a model, and its class list."""
    text = CONTRACT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.with_name("own.classes.txt").write_text("".join(f"{name}\n" for name in classes))
    path.with_suffix(".toml").write_text(text)
    return path.with_suffix(".toml")


# -- what a file tells


@pytest.mark.parametrize("shape", [["batch", 3, SIDE, SIDE], [1, SIDE, SIDE, 3], ["n", 3, "h", "w"]])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16])
def test_a_graph_is_read_as_the_onnx_package_reads_it(shape: list[int | str], dtype: int, tmp_path: Path) -> None:
    path = saved(classifier(shape, dtype, softmax=True, weights=TensorProto.FLOAT16), tmp_path)
    graph, whole = read_graph(path), onnx.load(path).graph
    for found, value in zip(graph.inputs + graph.outputs, [*whole.input, *whole.output], strict=True):
        tensor = value.type.tensor_type
        assert found.name == value.name
        assert found.dtype == helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        assert found.shape == tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
    assert graph.precision == "fp16"


def test_old_files_list_their_weights_among_the_inputs(tmp_path: Path) -> None:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1, 4]))
    assert [entry.name for entry in read_graph(saved(model, tmp_path)).inputs] == ["pixels"]


def test_quantised_graphs_are_int8(line: Path, tmp_path: Path) -> None:
    model = classifier()
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["pixels", "scale"], ["q"]))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "scale"], ["dq"]))
    model.graph.node[2].input[0] = "dq"
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]))
    assert read_graph(saved(model, tmp_path)).precision == "int8"
    exports = open_models([line / "runs/tiny/export"])
    assert [read_graph(subject.file).precision for subject in exports] == [subject.precision for subject in exports]


def test_bytes_that_end_early_are_refused_not_misread(tmp_path: Path) -> None:
    content = classifier().SerializeToString()
    for cut in range(8, len(content), 41):
        (tmp_path / "cut.onnx").write_bytes(content[:cut])
        with refuses("cut.onnx", "ONNX", at="models.onnx_file.read_onnx"):
            read_graph(tmp_path / "cut.onnx")


# -- contracts that cannot be


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('schema = "dhox.contract/1"', 'schema = "dhox.contract/2"', r"dhox\.contract/2"),
        ('schema = "dhox.contract/1"', "", r"schema"),
        ("[output]", "[outputs]", r"outputs?"),
        ("layout =", "layuot =", r"input: .*layuot"),
        ("range = 1\n", "", r"preprocessing: .*range"),
        ("range = 1\n", "range = 2\n", r"preprocessing: range = 2"),
        ('fit = "crop"', 'fit = "stretch"', r"preprocessing\.fit: .*stretch"),
        ("crop = 32", "crop = 33", r"preprocessing: crop = 33"),
        ("crop = 32", "crop = 32.5", r"preprocessing\.crop: .*int"),
        ('colour = "rgb"', 'colour = "gbr"', r"input\.colour: .*gbr"),
        ("std = [0.229,", "std = [0.0,", r"preprocessing\.std\[0\]"),
        ("mean = [0.485, 0.456,", "mean = [0.485, nan,", r"preprocessing.*mean"),
        ("mean = [0.485, 0.456,", "mean = [0.485,", r"preprocessing\.mean"),
        ('classes = "own.classes.txt"', 'classes = ["a", "a"]', r"classes names 'a' twice"),
        ('classes = "own.classes.txt"', 'classes = ["a"]', r"classes has 1 name"),
        ('classes = "own.classes.txt"', "classes = [1, 2]", r"classes\[0\]"),
        ('classes = "own.classes.txt"', 'classes = "other.txt"', r"other\.txt"),
        ("[input]", "[input", r"TOML"),
    ],
)  # fmt: skip
def test_a_contract_that_is_wrong_in_itself(old: str, new: str, named: str, tmp_path: Path) -> None:
    file = agreed(tmp_path / "own.onnx", (old, new))
    with pytest.raises(DhoxError) as refused:
        read_contract(file)
    assert str(tmp_path) in refused.value.reason
    assert re.search(named, refused.value.reason)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "pixels"', 'name = "image"', r"input\.name is 'image'.*'pixels', float32"),
        ('name = "answer"', 'name = "probs"', r"output\.name is 'probs'.*'answer', float32"),
        ('layout = "nchw"', 'layout = "nhwc"', r"\[batch, 32, 32, 3\].*'pixels', float32 \[batch, 3, 32"),
        ("crop = 32", "crop = 16", r"crop 16 .*\[batch, 3, 16, 16\]"),
        ('dtype = "float32"', 'dtype = "uint8"', r"input\.dtype is uint8.*'pixels', float32"),
        ('classes = "own.classes.txt"', 'classes = ["a", "b", "c"]', r"3 classes.* gives 4"),
    ],
)  # fmt: skip
def test_a_contract_that_contradicts_the_file(old: str, new: str, named: str, tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    with pytest.raises(DhoxError) as refused:
        check_model(path, read_contract(agreed(path, (old, new))))
    assert re.search(named, refused.value.reason)


def test_the_contract_in_the_documentation_is_a_whole_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/sweep.md").read_text(encoding="utf-8")
    (tmp_path / "model.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    (tmp_path / "model.classes.txt").write_text("a\nb\n")
    assert read_contract(tmp_path / "model.toml").classes == ["a", "b"]


# -- measured like an export


def test_inputs_are_laid_out_as_the_contract_says(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    path = saved(classifier(["batch", SIDE, SIDE, 3]), tmp_path)
    file = agreed(path, ('"rgb"', '"bgr"'), ("range = 1", "range = 255"), ("0.485", "104.0"), ("nchw", "nhwc"))
    subject = foreign_model(path, file)
    expected = (pixels[..., ::-1].astype(np.float64) - [104.0, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    taken = subject.tensors.graph_input(pixels)
    assert (taken.dtype, taken.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(taken, expected, rtol=1e-4, atol=1e-3)

    planar = saved(classifier(["batch", 3, SIDE, SIDE], TensorProto.UINT8), tmp_path, "planar")
    taken = foreign_model(planar, agreed(planar, ("float32", "uint8"))).tensors.graph_input(pixels)
    assert np.array_equal(taken, pixels.transpose(0, 3, 1, 2))

    half = saved(classifier(dtype=TensorProto.FLOAT16), tmp_path, "half")
    subject = foreign_model(half, agreed(half, ("float32", "float16")))
    assert subject.tensors.graph_input(pixels).dtype == np.float16
    probs = subject.tensors.probs(np.array([[0, 1]], np.float16))
    assert probs.dtype == np.float32
    assert probs.sum() == pytest.approx(1)


def test_squashed_images(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    contract = read_contract(agreed(path, ('fit = "crop"', 'fit = "squash"'), ("resize = 32", "resize = 36")))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((36, 36), Image.Resampling.BILINEAR))[2:34, 2:34]
    assert np.array_equal(model_input(image, contract.preprocessing), expected)
    assert msgspec.to_builtins(contract.preprocessing)["squash"] is True
    assert "squash" not in msgspec.to_builtins(read_contract(agreed(path)).preprocessing)


def test_a_fixed_batch_is_measured_at_that_batch_only(line: Path, tmp_path: Path) -> None:
    path = saved(classifier([5, 3, SIDE, SIDE]), tmp_path)
    agreed(path)
    subject = foreign_model(path, path.with_suffix(".toml"))
    assert subject.fixed_batch == 5
    check_batches([subject], (1, 5))
    with refuses("own", 5, 8, at="bench.bench_models.check_batch", fix="--batch 5"):
        check_batches([subject], (8,))
    found = dhox.bench(
        path, out=tmp_path / "bench", contract=path.with_suffix(".toml"), batch="1,5", scope="e2e", duration=0.05,
        energy=0, data=line / "data",
    ).bench  # fmt: skip
    assert [row.batch for row in found.latency] == [5]
    assert [one.model for one in found.not_run if one.batch == 1] == ["own"]
    assert found.accuracy.rows[0].n == 48  # 9 batches of 5, and 3 images


def test_a_model_of_plain_torch_beside_an_export(line: Path, tmp_path: Path) -> None:
    """As any user exports: torch.onnx.export, NCHW floats, logits, weights in a file beside it."""
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=len(CLASSES)).eval()
    path = tmp_path / "users.onnx"
    with torch.no_grad():
        torch.onnx.export(
            module, (torch.zeros(2, 3, SIDE, SIDE),), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )  # fmt: skip
    assert path.with_name("users.onnx.data").exists()
    outputs = [entry.name for entry in read_graph(path).inputs + read_graph(path).outputs]
    file = agreed(
        path, ("resize = 32", "resize = 40"), ('"rgb"', '"bgr"'), ("pixels", outputs[0]), ("answer", outputs[1])
    )
    export, out = line / "runs/tiny/export", tmp_path / "bench"
    found = dhox.bench(
        export, path, out=out, contract=file, precision=["fp32"], batch="1", duration=0.05, data=line / "data", energy=0
    ).bench
    assert [model.name for model in found.models] == ["fp32", "users"]
    assert found.models[1].bytes > path.with_name("users.onnx.data").stat().st_size
    assert {(row.model, row.scope) for row in found.latency} == {
        (name, scope) for name in ("fp32", "users") for scope in ("device", "e2e", "pipeline")
    }
    answered = list(csv.DictReader((out / "predictions.csv").open()))
    users = [row for row in answered if row["model"] == "users"]
    assert [row["path"] for row in users] == [row["path"] for row in answered if row["model"] == "fp32"]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for row in users:
        image = Image.open(line / "data" / row["path"]).convert("RGB").resize((40, 40), Image.Resampling.BILINEAR)
        bgr = np.asarray(image.crop((4, 4, 36, 36)))[..., ::-1] / 255
        with torch.no_grad():
            probs = module(torch.tensor((bgr - mean) / std).permute(2, 0, 1)[None].float()).softmax(-1)[0].numpy()
        assert row["predicted"] == CLASSES[int(probs.argmax())]
        assert float(row["probability"]) == pytest.approx(probs.max(), abs=2e-6)
    right = sum(row["label"] == row["predicted"] for row in users)
    assert found.accuracy.rows[1].correct == right


def test_a_model_without_its_contract(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    with refuses("own.onnx", at="bench.bench_models.foreign_model", fix="--contract FILE"):
        open_models([path])
    assert open_session(path).get_inputs()[0].name == "pixels"

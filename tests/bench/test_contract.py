"""Classifiers of other tools: what their files tell, drafted contracts, refusals, and the same bench as for exports."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import CLASSES
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from dhox.bench.bench_models import open_subjects
from dhox.bench.contract_model import check_batches, contract_subject
from dhox.bench.run import bench
from dhox.cli.main import main
from dhox.data.images import model_input
from dhox.errors import DhoxError
from dhox.models.contract import Contract, check_model, read_contract
from dhox.models.contract_draft import literal, toml, write_draft
from dhox.models.onnx_graph import read_graph
from dhox.options.recipe import tomllib
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


def drafted(path: Path, classes: tuple[str, ...] = CLASSES) -> Contract:
    """The contract as a user completes it: drafted, and the class list written."""
    write_draft(path, path.with_suffix(".toml"), None, overwrite=True)
    path.with_name(f"{path.stem}.classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return read_contract(path.with_suffix(".toml"))


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
    assert graph.weights == {"int64": 4, "float16": 4}
    assert (graph.precision, graph.producer) == ("fp16", "a test")
    assert graph.last_op == {"answer": "Softmax"}  # behind a cast


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
    exports = open_subjects([line / "runs/tiny/export"])
    assert [read_graph(subject.file).precision for subject in exports] == [subject.precision for subject in exports]


def test_bytes_that_end_early_are_refused_not_misread(tmp_path: Path) -> None:
    content = classifier().SerializeToString()
    for cut in range(8, len(content), 41):
        (tmp_path / "cut.onnx").write_bytes(content[:cut])
        with pytest.raises(DhoxError, match=r"cut\.onnx is not an ONNX file, or is damaged"):
            read_graph(tmp_path / "cut.onnx")


# -- drafts


def test_a_draft_marks_what_the_file_does_not_tell(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = saved(classifier(), tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["contract", str(path)])
    said = " ".join(capsys.readouterr().out.split())
    text = path.with_suffix(".toml").read_text()
    content = tomllib.loads(text)
    assert content["input"] == {"name": "pixels", "layout": "nchw", "dtype": "float32", "colour": "rgb"}
    assert content["output"] == {"name": "answer", "kind": "logits"}
    marked = set(re.findall(r"^(\w+) = .*# GUESS", text, re.MULTILINE))
    assert marked == {"colour", "fit", "resize", "interpolation", "range", "mean", "std"}
    assert all(key in said for key in marked)
    assert "own.classes.txt: 4 class names" in said
    assert "dhox bench --contract" in said
    with pytest.raises(DhoxError, match=r"own\.classes\.txt, which is missing\. Write it: one name per line"):
        read_contract(path.with_suffix(".toml"))
    with pytest.raises(DhoxError, match=r"own\.toml exists\. Add --overwrite"):
        write_draft(path, path.with_suffix(".toml"), None, overwrite=False)
    assert path.with_suffix(".toml").read_text() == text
    assert drafted(path).classes == list(CLASSES)


def test_the_command_after_a_draft_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = saved(classifier(), tmp_path).rename(tmp_path / "my model[1].onnx")
    with pytest.raises(SystemExit, match="0"):
        main(["contract", str(path)])
    command = capsys.readouterr().out.split("Next: ")[1]
    assert shlex.split(command) == [
        "dhox", "bench", "--contract", str(path.with_suffix(".toml")), str(path), "--data", "DATA"
    ]  # fmt: skip
    with pytest.raises(DhoxError) as refused:
        open_subjects([path])
    assert f"dhox contract '{path}', then" in str(refused.value)


def test_a_draft_takes_the_metadata_of_known_exporters(line: Path, tmp_path: Path) -> None:
    names = {number: f"a class, no. {number}" for number in range(60)}
    ultralytics = {"task": "classify", "imgsz": "[96, 96]", "names": str(names), "author": "Ultralytics"}
    path = saved(classifier(["batch", 3, "h", "w"], classes=60, softmax=True, metadata=ultralytics), tmp_path)
    result = write_draft(path, tmp_path / "own.toml", None, overwrite=False)
    assert result.missing is None
    assert result.guesses == []
    contract = read_contract(tmp_path / "own.toml")
    assert contract.classes == list(names.values())
    assert contract.preprocessing.to_json() == {
        "resize": 96, "crop": 96, "interpolation": "bilinear", "mean": (0, 0, 0), "std": (1, 1, 1)
    }  # fmt: skip
    assert contract.kind == "probs"

    export = line / "runs/tiny/export"
    result = write_draft(export / "model.onnx", tmp_path / "line.toml", None, overwrite=False)
    assert (result.guesses, result.missing) == ([], None)
    subject, own = contract_subject(export / "model.onnx", tmp_path / "line.toml"), open_subjects([export])[0]
    for key in ("sha256", "bytes", "precision", "classes", "preprocessing", "input_kind", "output_kind"):
        assert getattr(subject, key) == getattr(own, key), key


def test_hostile_metadata_is_text_and_nothing_else(tmp_path: Path) -> None:
    names = "{0: 'a\\n[input]', 1: __import__('os').system('touch ran')}"
    metadata = {"task": "classify", "names": names, "imgsz": "(" * 5000}
    model = classifier(metadata=metadata)
    model.producer_name = 'x"\n[output]\nname = "other"'
    model.graph.input[0].name = model.graph.node[0].input[0] = 'pi"x\nels'
    path = saved(model, tmp_path)
    contract = drafted(path)
    assert contract.input_name == 'pi"x\nels'
    assert contract.output_name == "answer"
    assert not list(tmp_path.glob("ran"))
    assert literal("9" * 2**21) is None


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.floats(-1e6, 1e6))))
def test_drafted_values_are_read_back(value: Any) -> None:
    assert tomllib.loads(f"a = {toml(value)}")["a"] == value


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (classifier(["batch", 1, SIDE, SIDE]), r"one channel; dhox feeds three"),
        (classifier(["batch", 3, SIDE, 48]), r"\[batch, 3, 32, 48\]; dhox measures square inputs"),
        (classifier(["batch", 5, SIDE, 7]), r"no dimension is the 3 colours"),
        (classifier(dtype=TensorProto.INT32), r"takes 'pixels', int32 .*; dhox feeds float32, float16, uint8"),
    ],
)
def test_a_graph_that_is_no_image_classifier(model: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    with pytest.raises(DhoxError, match=message):
        write_draft(saved(model, tmp_path), tmp_path / "own.toml", None, overwrite=False)
    assert not (tmp_path / "own.toml").exists()


# -- contracts that cannot be


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('schema = "dhox.contract/1"', 'schema = "dhox.contract/2"', r"schema 'dhox\.contract/2', this dhox reads"),
        ("[output]", "[outputs]", r"lacks the section \[output\]\. `dhox contract MODEL\.onnx` drafts"),
        ("layout =", "layuot =", r"unknown key input\.layuot\. Did you mean input\.layout\?"),
        ("range = 1 ", "", r"lacks the key preprocessing\.range"),
        ("range = 1 ", "range = 2 ", r"preprocessing\.range = 2 is the value of a white pixel .*use 1 or 255"),
        ('fit = "crop"', 'fit = "stretch"', r"preprocessing\.fit = 'stretch' is unknown\. Use one of: crop, squash"),
        ("crop = 32", "crop = 33", r"crop of 33 pixels must lie in 1 to resize = 32"),
        ("crop = 32", "crop = 32.0", r"preprocessing\.crop = 32\.0 should be a whole number"),
        ('colour = "rgb"', 'colour = "gbr"', r"input\.colour = 'gbr' is unknown\. Use one of: rgb, bgr"),
        ("std = [0.229,", "std = [0.0,", r"preprocessing\.std = .* must be above 0"),
        ("mean = [0.485, 0.456,", "mean = [0.485, nan,", r"preprocessing\.mean = .* should be three numbers"),
        ('classes = "own.classes.txt"', 'classes = ["a", "a"]', r"classes names 'a' twice"),
        ('classes = "own.classes.txt"', "classes = [1, 2]", r"classes should be names in quotes"),
        ("[input]", "[input", r"not valid TOML"),
    ],
)  # fmt: skip
def test_a_contract_that_is_wrong_in_itself(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    drafted(path)
    file = path.with_suffix(".toml")
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DhoxError, match=message):
        read_contract(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "pixels"', 'name = "image"', r"input\.name is 'image', but .* takes 'pixels', float32"),
        ('name = "answer"', 'name = "probs"', r"output\.name is 'probs', but .* gives 'answer', float32"),
        ('layout = "nchw"', 'layout = "nhwc"', r"mean \[batch, 32, 32, 3\], but .* takes 'pixels', float32 \[batch, 3, 32"),
        ("crop = 32", "crop = 16", r"mean \[batch, 3, 16, 16\], but .*Mend input\.layout or preprocessing\.crop"),
        ('dtype = "float32"', 'dtype = "uint8"', r"input\.dtype is uint8, but .* takes 'pixels', float32"),
        ('classes = "own.classes.txt"', 'classes = ["a", "b", "c"]', r"names 3 classes, but .* gives 4"),
    ],
)  # fmt: skip
def test_a_contract_that_contradicts_the_file(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    drafted(path)
    file = path.with_suffix(".toml")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DhoxError, match=message):
        check_model(path, read_contract(file))


# -- measured like an export


def test_inputs_are_laid_out_as_the_contract_says(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    path = saved(classifier(["batch", SIDE, SIDE, 3]), tmp_path)
    drafted(path)
    file, text = path.with_suffix(".toml"), path.with_suffix(".toml").read_text()
    file.write_text(text.replace('"rgb"', '"bgr"').replace("range = 1 ", "range = 255 ").replace("0.485", "104.0"))
    subject = contract_subject(path, file)
    expected = (pixels[..., ::-1].astype(np.float64) - [104.0, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    taken = subject.tensors.graph_input(pixels)
    assert (taken.dtype, taken.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(taken, expected, rtol=1e-4, atol=1e-3)

    planar = saved(classifier(["batch", 3, SIDE, SIDE], TensorProto.UINT8), tmp_path, "planar")
    drafted(planar)
    taken = contract_subject(planar, planar.with_suffix(".toml")).tensors.graph_input(pixels)
    assert np.array_equal(taken, pixels.transpose(0, 3, 1, 2))

    half = saved(classifier(dtype=TensorProto.FLOAT16), tmp_path, "half")
    drafted(half)
    subject = contract_subject(half, half.with_suffix(".toml"))
    assert subject.tensors.graph_input(pixels).dtype == np.float16
    probs = subject.tensors.probs(np.array([[0, 1]], np.float16))
    assert probs.dtype == np.float32
    assert probs.sum() == pytest.approx(1)


def test_squashed_images(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    drafted(path)
    file, text = path.with_suffix(".toml"), path.with_suffix(".toml").read_text()
    file.write_text(text.replace('fit = "crop"', 'fit = "squash"').replace("resize = 32", "resize = 36"))
    contract = read_contract(file)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((36, 36), Image.Resampling.BILINEAR))[2:34, 2:34]
    assert np.array_equal(model_input(image, contract.preprocessing), expected)
    assert contract.preprocessing.to_json()["squash"] is True
    assert contract.preprocessing == type(contract.preprocessing).from_json(contract.preprocessing.to_json())
    file.write_text(text)
    assert "squash" not in read_contract(file).preprocessing.to_json()


def test_a_fixed_batch_is_measured_at_that_batch_only(line: Path, tmp_path: Path) -> None:
    path = saved(classifier([5, 3, SIDE, SIDE]), tmp_path)
    drafted(path)
    subject = contract_subject(path, path.with_suffix(".toml"))
    assert subject.fixed_batch == 5
    check_batches([subject], (1, 5))
    with pytest.raises(DhoxError, match=r"own has the batch size 5 fixed in its file, so batch 8 .*Use --batch 5"):
        check_batches([subject], (8,))
    result = bench(
        [path], tmp_path / "bench", contract=path.with_suffix(".toml"), batches=(1, 5), scopes=("e2e",),
        duration_s=0.05, data=line / "data",
    )  # fmt: skip
    assert [row["batch"] for row in result.content["latency"]] == [5]
    assert [line for line in result.content["not_run"] if "at batch 1 not run" in line]
    assert result.content["accuracy"]["rows"][0]["n"] == 48  # 9 batches of 5, and 3 images


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
    drafted(path)
    file = path.with_suffix(".toml")
    file.write_text(file.read_text().replace("resize = 32", "resize = 40").replace('"rgb"', '"bgr"'))
    export, out = line / "runs/tiny/export", tmp_path / "bench"
    result = bench(
        [export, path], out, contract=file, precisions=("fp32",), batches=(1,), duration_s=0.05, data=line / "data"
    )
    content = result.content
    assert [row["name"] for row in content["subjects"]] == ["fp32", "users"]
    assert content["subjects"][1]["bytes"] > path.with_name("users.onnx.data").stat().st_size
    assert {(row["subject"], row["scope"]) for row in content["latency"]} == {
        (name, scope) for name in ("fp32", "users") for scope in ("device", "e2e", "pipeline")
    }
    answered = list(csv.DictReader((out / "predictions.csv").open()))
    users = [row for row in answered if row["subject"] == "users"]
    assert [row["path"] for row in users] == [row["path"] for row in answered if row["subject"] == "fp32"]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for row in users:
        image = Image.open(line / "data" / row["path"]).convert("RGB").resize((40, 40), Image.Resampling.BILINEAR)
        bgr = np.asarray(image.crop((4, 4, 36, 36)))[..., ::-1] / 255
        with torch.no_grad():
            probs = module(torch.tensor((bgr - mean) / std).permute(2, 0, 1)[None].float()).softmax(-1)[0].numpy()
        assert row["predicted"] == CLASSES[int(probs.argmax())]
        assert float(row["probability"]) == pytest.approx(probs.max(), abs=2e-6)
    right = sum(row["label"] == row["predicted"] for row in users)
    assert content["accuracy"]["rows"][1]["correct"] == right


def test_a_model_without_its_contract(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    with pytest.raises(DhoxError, match=r"dhox contract .*own\.onnx, then --contract FILE"):
        open_subjects([path])
    assert open_session(path).get_inputs()[0].name == "pixels"

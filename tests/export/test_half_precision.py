"""Half precision: what is typed how, what calibration keeps in fp32, and what the emulation says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, defs, numpy_helper
from onnx_graphs import pixels
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from refusals import refuses
from tensorrt_rtx_build import build
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.distill.students.student import create_backbone, preprocessing_of, with_heads
from dhox.export.folding.fold import inference_linear
from dhox.export.graphs.graph import Deployable, LinearHead, folded_head, head_arrays
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.half_precision.calibrated import joined, to_half
from dhox.export.half_precision.convert import SMALLEST_SCALE, cast_tensors, convert, fp32_nodes
from dhox.export.half_precision.emulated import emulated, typed_graph
from dhox.export.half_precision.ranges import measure_ranges
from dhox.export.half_precision.sensitivity import Damage, largest_difference
from dhox.runtimes.onnxruntime_api import open_session

SIZE = 28


def scaled(content: bytes, factors: dict[str, float], channels: slice = slice(None)) -> bytes:
    """A graph with some weights (of some output channels) multiplied."""
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            array = numpy_helper.to_array(tensor).copy()
            array[channels] *= np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    changed: bytes = model.SerializeToString()
    return changed


@pytest.fixture(scope="module")
def fp32() -> bytes:
    """A small ResNet whose BatchNorm statistics fit its random weights."""
    torch.manual_seed(0)
    backbone, data = create_backbone("test_resnet", "none", SIZE)
    model = with_heads(backbone, SIZE, 5, two_heads=True).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, 3, SIZE, SIZE))
    head = folded_head(head_arrays(model), inference_linear(0.4, 0.5))
    return export_onnx(Deployable(model.backbone, head, preprocessing_of(data), "uint8-nhwc").eval(), SIZE, {})


@pytest.fixture(scope="module")
def large(fp32: bytes) -> bytes:
    """The same function, with activations beyond 65504 behind its first convolution."""
    first, second = "backbone.conv1.0.weight", "backbone.conv1.3.weight"
    weights = [
        numpy_helper.to_array(t) for t in onnx.load_from_string(fp32).graph.initializer if t.name.startswith(first)
    ]
    factor = 6e4 / max(float(abs(array).max()) for array in weights)  # every weight still fits
    return scaled(fp32, {first: factor, f"{first}_bias": factor, second: 1 / factor})


def probs(content: bytes, batch: np.ndarray | None = None) -> np.ndarray:
    answer: np.ndarray = open_session(content).run(None, {"image": pixels(SIZE) if batch is None else batch})[0]
    return answer


def assert_casts_are_needed(content: bytes) -> None:
    """No Cast reads a Cast, none is made twice, none changes nothing."""
    graph = typed_graph(content).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input]}
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert not {node.input[0] for node in casts} & {node.output[0] for node in casts}
    targets = [(node.input[0], node.attribute[0].i) for node in casts]
    assert len(set(targets)) == len(targets)
    assert all(types[name] != target for name, target in targets)


@settings(max_examples=12)
@given(data=st.data())
def test_any_nodes_can_stay_fp32(fp32: bytes, data: st.DataObject) -> None:
    graph = typed_graph(fp32).graph
    names = [node.name for node in graph.node if node.name not in fp32_nodes(graph)]
    chosen = dict.fromkeys(data.draw(st.sets(st.sampled_from(names))), "drawn")
    content = convert(fp32, {}, chosen)
    assert_casts_are_needed(content)
    assert abs(probs(content) - probs(fp32)).max() < 2e-2
    half = typed_graph(content).graph
    types = {value.name: value.type.tensor_type.elem_type for value in half.value_info}
    for node in half.node:
        if node.name in names:
            assert types[node.output[0]] == (TensorProto.FLOAT if node.name in chosen else TensorProto.FLOAT16)
    own = count_casts(fp32)
    casts = [count_casts(convert(fp32, {}, kept)) for kept in (chosen, joined(graph, chosen))]
    assert casts[0] == own + len(cast_tensors(graph, {*fp32_nodes(graph), *chosen}))
    assert casts[1] <= casts[0]


def count_casts(model: bytes) -> int:
    return sum(node.op_type == "Cast" for node in onnx.load_from_string(model).graph.node)


def test_a_graph_that_fits_is_half_throughout(fp32: bytes) -> None:
    half = to_half(fp32, {"a": 1}, [pixels(SIZE, 5), pixels(SIZE, 3)])
    assert half.content == to_half(fp32, {"a": 1}, [pixels(SIZE, 5), pixels(SIZE, 3)]).content
    assert half.content == convert(fp32, {"a": 1}, {})
    assert (half.account.share, half.account.n) == (1.0, 8)
    assert 0 < half.account.difference < 1e-3
    assert {row.why for row in half.account.kept} == {"normalisation of pixels", "the head's tail"}
    assert half.account.kept[0].largest == 255


def test_what_overflows_on_the_images_stays_fp32(fp32: bytes, large: bytes) -> None:
    assert abs(probs(large) - probs(fp32)).max() < 1e-4
    blind = probs(emulated(convert(large, {}, {})))
    assert not abs(blind - probs(large)).max() < 2e-2  # not a number, or wrong
    half = to_half(large, {}, [pixels(SIZE)])
    values = [row for row in half.account.kept if row.why.startswith("values up to")]
    assert {row.op for row in values} >= {"Conv", "Relu"}
    assert max(row.largest for row in values) > 65504
    assert 0.5 < half.account.share < 1
    assert_casts_are_needed(half.content)
    for answer in (probs(half.content), probs(emulated(half.content))):
        assert abs(answer - probs(large)).max() < 2e-3
    assert build(half.content)["HALF"] > 0


def test_a_graph_that_is_not_finite_is_refused_with_the_node(fp32: bytes) -> None:
    broken = scaled(fp32, {"backbone.layer3.0.conv1.weight": np.nan}, slice(1, 2))
    with refuses("fp32", "Conv", at="export.half_precision.calibrated._check_finite"):
        to_half(broken, {}, [pixels(SIZE)])


class PixelFeatures(nn.Module):
    """[B, 3, 4, 4] to features [B, 48]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).relu() * 0.3


WEIGHT = np.random.default_rng(0).normal(0, 0.3, (5, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def linear() -> bytes:
    """One linear layer, WEIGHT, on pixels."""
    preprocessing = Preprocessing(4, 4, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    head = LinearHead({"linear.weight": WEIGHT, "linear.bias": np.zeros(5, np.float32)})
    return export_onnx(Deployable(PixelFeatures(), head, preprocessing, "uint8-nhwc").eval(), 4, {})


def test_emulation_rounds_what_is_stored_and_sums_in_fp32(linear: bytes) -> None:
    bits = 13  # that fp16 has less than fp32

    def rounded(x: np.ndarray) -> np.ndarray:
        """float32 rounded to nearest even at the `bits` last bits."""
        whole = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.int64)
        whole += (1 << (bits - 1)) - 1 + ((whole >> bits) & 1)
        return (whole >> bits << bits).astype(np.uint32).view(np.float32)

    batch = pixels(4)
    x = (batch.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(127.5)) * np.float32(1 / 63.75)
    z = rounded(rounded(x).clip(0).reshape(len(batch), -1) * rounded(np.array([0.3], np.float32)))
    logits = rounded(z @ rounded(WEIGHT).T)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    answer = probs(emulated(convert(linear, {}, {})), batch)
    assert abs(answer - expected / expected.sum(1, keepdims=True)).max() < 1e-5


def divided(scale: float, weight: np.ndarray, *divisor: onnx.NodeProto) -> bytes:
    """Scaled pixels, flattened, divided by what the nodes make of them (`x` to `d`), in one linear layer."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT), node("Mul", ["pixels", "scale"], ["y"], "scale"),
        node("Reshape", ["y", "flat"], ["x"], "reshape"), *divisor, node("Div", ["x", "d"], ["z"], "divide"),
        node("MatMul", ["z", "weight"], ["logits"], "linear"), node("Softmax", ["logits"], ["probs"], "softmax"),
    ]  # fmt: skip
    constants = {
        "scale": np.float32(scale), "flat": np.array([-1, 48]), "weight": weight.T, "two": np.float32(2),
        "axis": np.array([-1]), "tiny": np.float32(4e-4),
    }  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [onnx.helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def test_squares_and_small_divisors_stay_fp32() -> None:
    node = onnx.helper.make_node
    norm = divided(
        1.0, WEIGHT, node("Pow", ["x", "two"], ["squares"], "squares"), node("ReduceMean", ["squares", "axis"], ["m"], "mean"),
        node("Add", ["m", "tiny"], ["v"], "epsilon"), node("Sqrt", ["v"], ["d"], "root"),
    )  # fmt: skip
    small = divided(
        2**-10, 1e-3 * WEIGHT, node("Mul", ["x", "tiny"], ["s"], "shrink"), node("ReduceMean", ["s", "axis"], ["d"], "mean"),
    )  # fmt: skip
    for content, expected in (
        (norm, dict.fromkeys(("squares", "mean", "epsilon", "root"), "a norm's mean of squares")),
        (small, dict.fromkeys(("mean", "divide"), "a divisor or root of")),
    ):
        half = to_half(content, {}, [pixels(4)])
        why = {row.node: row.why for row in half.account.kept}
        for name, words in expected.items():
            assert words in why[name]
        assert abs(probs(half.content, pixels(4)) - probs(content, pixels(4))).max() < 1e-2
        assert build(half.content).total() > 0


def test_where_nothing_could_be_half_it_says_so(linear: bytes) -> None:
    large = scaled(linear, {"head.linear.weight": 1e7}, slice(0, 1))
    with refuses("fp16", at="export.half_precision.calibrated.account", fix="--fp16") as caught:
        to_half(large, {}, [pixels(4)])
    assert "e+06" in caught.value.reason
    assert to_half(linear, {}, [pixels(4)]).account.share == 1


def test_what_lies_between_fp32_nodes_joins_them(linear: bytes) -> None:
    graph = typed_graph(linear).graph
    computing = {node.name: "" for node in graph.node if node.op_type in {"Mul", "Gemm"}}
    assert {node.op_type for node in graph.node} >= {"Reshape", "Relu"}
    kept = joined(graph, computing)
    assert {node.op_type for node in onnx.load_from_string(convert(linear, {}, computing)).graph.node} >= {"Cast"}
    assert len(typed_graph(convert(linear, {}, kept)).graph.node) == len(graph.node)  # no further Cast


def test_ranges_are_those_of_the_tensors(linear: bytes) -> None:
    first, second = pixels(4, 6)[:2], pixels(4, 6)[2:]
    ranges = measure_ranges(linear, [first, second])
    x = (pixels(4, 6).transpose(0, 3, 1, 2).astype(np.float64) / 255 - 0.5) / 0.25
    logits = 0.3 * x.clip(0).reshape(6, -1) @ WEIGHT.T
    gemm = next(node for node in typed_graph(linear).graph.node if node.op_type == "Gemm")
    assert ranges.largest[gemm.output[0]] == pytest.approx(abs(logits).max(), rel=1e-5)
    assert ranges.largest[gemm.input[0]] == pytest.approx(0.3 * x.max(), rel=1e-5)


def test_damage_of_nodes_is_that_of_a_file_in_which_the_others_are_fp32(fp32: bytes) -> None:
    graph = typed_graph(fp32).graph
    nodes = [node.name for node in graph.node if node.op_type in {"Conv", "Gemm", "Relu"}]
    damage = Damage(fp32, nodes, pixels(SIZE), probs(fp32))
    assert damage.of([]) < 1e-6
    for half in (nodes[:1], nodes[-1:], nodes[3:7], nodes):
        others = {node.name: "" for node in graph.node if node.name not in half}
        there = largest_difference(probs(emulated(convert(fp32, {}, others))), probs(fp32))
        assert there > 0
        assert damage.of(half) == pytest.approx(there, abs=1e-6)


def test_the_worst_nodes_come_first_and_every_node_once(fp32: bytes) -> None:
    nodes = [node.name for node in typed_graph(fp32).graph.node if node.op_type in {"Conv", "Gemm", "Relu"}]
    damage = Damage(fp32, nodes, pixels(SIZE), probs(fp32))
    alone = {name: damage.of([name]) for name in nodes}
    found = list(damage.worst_first())
    assert sorted(name for name, _ in found) == sorted(nodes)
    assert dict(found) == alone
    assert found[0][1] > 0.5 * max(alone.values())  # stretches hide a node where errors cancel, but not by much
    assert list(Damage(fp32, [], pixels(SIZE), probs(fp32)).worst_first()) == []


class OneBatch(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.batches = iter([{"image": pixels(SIZE, 16)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantised(content: bytes, folder: Path) -> bytes:
    """int8 Q/DQ pairs around convolutions by ONNX Runtime's quantiser, with the settings that TensorRT builds."""
    source, ready, target = (folder / name for name in ("a.onnx", "b.onnx", "c.onnx"))
    source.write_bytes(content)
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(target), OneBatch(), quant_format=QuantFormat.QDQ, per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Add"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    return target.read_bytes()


def test_quantised_graphs_become_half_around_their_pairs(fp32: bytes, tmp_path: Path) -> None:
    # One channel whose weights are below what fp16 scales of int8 can tell apart
    source = quantised(scaled(fp32, {"backbone.layer2.0.conv1.weight": 1e-5}, slice(0, 1)), tmp_path)
    content = convert(source, {}, {})
    model = onnx.load_from_string(content)
    assert (model.ir_version, [(e.domain, e.version) for e in model.opset_import]) == (10, [("", 19)])
    assert_casts_are_needed(content)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert len(pairs) > 20
    scales = [weights[node.input[1]] for node in pairs]
    assert Counter(str(scale.dtype) for scale in scales)["float16"] > 20
    assert min(float(scale.min()) for scale in scales) >= SMALLEST_SCALE
    before = onnx.load_from_string(source).graph
    assert any(
        (numpy_helper.to_array(t) < SMALLEST_SCALE).any() for t in before.initializer if t.name.endswith("_scale")
    )
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    answers = [
        ort.InferenceSession(graph, options).run(None, {"image": pixels(SIZE)})[0] for graph in (source, content, emulated(content))
    ]  # fmt: skip
    for answer in answers[1:]:
        assert abs(answer - answers[0]).max() < 2e-2
    types = build(content)
    assert types["HALF"] > types["FLOAT"]
    assert types["INT8"] > 0


def test_operators_mean_the_same_in_the_opsets_that_half_types_need() -> None:
    """From opset 18 to 22 only types were added, and attributes with the old behaviour as default."""
    changed = {s.name for s in defs.get_all_schemas_with_history() if not s.domain and 18 < s.since_version <= 22}
    changed -= {"DFT", "GridSample"}  # these did change; no image network has them
    compared = 0
    for name in sorted(changed):
        try:
            old = defs.get_schema(name, 18)
        except defs.SchemaError:
            continue  # a newer operator
        new = defs.get_schema(name, 22)
        assert [i.name for i in new.inputs][: len(old.inputs)] == [i.name for i in old.inputs]
        assert old.attributes.keys() <= new.attributes.keys()
        assert not any(new.attributes[key].required for key in new.attributes.keys() - old.attributes.keys())
        assert all(old.attributes[key].default_value == new.attributes[key].default_value for key in old.attributes)
        compared += 1
    assert compared > 30


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import dhox.export.half_precision.calibrated"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

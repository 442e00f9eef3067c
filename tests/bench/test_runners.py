"""Runners on real files: what they answer, what they say of themselves, and which one a name or a device means."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime import OrtValue
from refusals import refuses
from synthetic_engine import engine_content

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.bench import RunnerFacts
from dhox.bench.bench_models import BenchModel, open_models
from dhox.bench.runners import runner as runners
from dhox.bench.runners.runner import check_runner, choose_device, default_runners, open_runner, parse_runner
from dhox.bench.runners.torch_reference import open_torch_session
from dhox.errors import UsageError
from dhox.models.engines import platform_name
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.onnxruntime_api import nodes_run, open_session
from dhox.runtimes.onnxruntime_session import (
    DEQUANTISED,
    EMULATED,
    WEAKLY_TYPED,
    OnnxSession,
    engine_cache,
    precision_facts,
    provider_options,
)
from dhox.runtimes.tensorrt_api import import_tensorrt

CPU = ["CPUExecutionProvider"]
CHOOSE = "bench.runners.runner.choose_device"


@pytest.fixture(scope="module")
def subjects(line: Path) -> dict[str, BenchModel]:
    return {subject.precision: subject for subject in open_models([line / "runs/tiny/export"])}


@pytest.fixture(scope="module")
def golden(line: Path) -> dict[str, np.ndarray]:
    return read_npz(line / "runs/tiny/export/golden.npz")


@pytest.mark.parametrize("runner", ["onnxruntime", "torch"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_every_batch_is_answered_row_by_row(
    subjects: dict[str, BenchModel], golden: dict[str, np.ndarray], runner: str, precision: str, tolerance: float
) -> None:
    with closing(open_runner(subjects[precision], runner, "cpu")) as opened:
        opened.bind(golden["input"][:2])
        for n in (2, 1, 32, 5):
            probs = opened.infer(golden["input"][:n])
            assert (probs.shape, probs.dtype) == ((n, 4), np.float32)
            assert abs(probs - golden["probs"][:n]).max() < tolerance
        assert opened.name == runner
        assert msgspec.json.decode(msgspec.json.encode(opened.facts), type=RunnerFacts) == opened.facts
        assert opened.facts.precision_asked == precision
        assert (opened.facts.precision_note is None) == (precision == "fp32")


def test_run_computes_what_is_bound_into_arrays_of_its_own(
    subjects: dict[str, BenchModel], golden: dict[str, np.ndarray]
) -> None:
    opened: Any = open_runner(subjects["fp32"], "onnxruntime", "cpu")
    for n in (3, 8):
        batch = golden["input"][:n].copy()
        opened.bind(batch)
        batch[:] = 0  # the caller's array is free again
        opened.output.numpy()[:] = -1
        opened.run()
        assert abs(opened.output.numpy() - golden["probs"][:n]).max() < 1e-4
        kept = opened.infer(golden["input"][:n])
        opened.run()
        assert abs(kept - golden["probs"][:n]).max() < 1e-4  # answers are not overwritten by the next run
    opened.close()


def test_on_the_cpu_nothing_is_off_the_device(subjects: dict[str, BenchModel], tmp_path: Path) -> None:
    """The same profile that counts the nodes off a GPU, by provider."""
    session = open_session(subjects["fp32"].file, "cpu", tmp_path / "profile")
    session.run(["probs"], {"image": np.zeros((1, 28, 28, 3), np.uint8)})
    nodes = nodes_run(session)
    assert len(nodes) > 5
    assert {provider for _, _, provider in nodes} == set(CPU)


REFUSED = "This session cannot use the graph capture feature as requested by the user as all compute graph nodes"


@pytest.mark.parametrize("when", ["open", "run"])
def test_a_refused_graph_is_said_and_the_runner_goes_on_without(
    subjects: dict[str, BenchModel], golden: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A CPU session in the place of CUDA's, which refuses the graph where ONNX Runtime would."""

    def refusing(*arguments: Any, provider_options: dict[str, str], **rest: Any) -> Any:
        session = open_session(*arguments, **rest)
        if "enable_cuda_graph" in provider_options:
            if when == "open":
                raise Exception(REFUSED + "\nand pages more")

            def run(*_: Any) -> None:
                raise Exception(REFUSED + "\nand pages more")

            session.run_with_iobinding = run
        return session

    monkeypatch.setattr("dhox.runtimes.onnxruntime_session.open_session", refusing)
    with closing(OnnxSession(subjects["fp32"].file, options=frozenset({"graph"}))) as opened:
        opened.bind(golden["input"][:4])
        opened.run()
        assert abs(opened.output.numpy() - golden["probs"][:4]).max() < 1e-4
        assert (opened.facts.graph_asked, opened.facts.graph, opened.facts.graph_note) == (True, False, REFUSED)


def fixed_model(path: Path) -> Path:
    """A model of another tool that takes two images only."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["data"], ["mean"]), helper.make_node("Flatten", ["mean"], ["scores"])],
        "fixed",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def foreign(subject: BenchModel, path: Path) -> BenchModel:
    return replace(
        subject, file=path, input_name="data", output_name="scores", output_kind="logits", export=None, manifest=None
    )


def test_a_model_of_another_tool_runs_by_its_own_names(subjects: dict[str, BenchModel], tmp_path: Path) -> None:
    subject = foreign(subjects["fp32"], fixed_model(tmp_path / "model.onnx"))
    batch = np.arange(2 * 3 * 64, dtype=np.float32).reshape(2, 3, 8, 8)
    with closing(open_runner(subject, "onnxruntime", "cpu")) as opened:
        opened.bind(batch)
        opened.run()
        np.testing.assert_allclose(opened.infer(batch), batch.mean((2, 3)), rtol=1e-5)
        for call in (opened.bind, opened.infer):
            with refuses("model.onnx", 3, at="runtimes.onnxruntime_session.run_once") as raised:
                call(np.zeros((3, 3, 8, 8), np.float32))
            assert "batches of 2 only" in raised.value.fix
    with refuses("torch", "model.onnx", at="bench.runners.torch_reference"):
        open_runner(subject, "torch", "cpu")


def test_what_onnx_runtime_cannot_open_is_one_clear_error(subjects: dict[str, BenchModel], tmp_path: Path) -> None:
    model = onnx.load(subjects["fp32"].file)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with refuses("model.onnx", "NoSuchOperator", at="runtimes.onnxruntime_session.open"):
        open_runner(replace(subjects["fp32"], file=tmp_path / "model.onnx"), "onnxruntime", "cpu")


def test_torch_needs_the_run_that_was_exported(subjects: dict[str, BenchModel], own_line: Path) -> None:
    with refuses("torch", "int8", at="bench.runners.torch_reference", fix="--precision fp32"):
        open_torch_session(replace(subjects["fp32"], precision="int8"), "torch", "cpu", frozenset())

    def of_run(run: Path) -> BenchModel:
        manifest = subjects["fp32"].manifest
        assert manifest is not None
        source = msgspec.structs.replace(manifest.run, path=str(run))
        return replace(subjects["fp32"], manifest=msgspec.structs.replace(manifest, run=source))

    with refuses("torch", "runs/x", at="bench.runners.torch_reference"):
        open_torch_session(of_run(own_line / "runs/x"), "torch", "cpu", frozenset())
    run = own_line / "runs/tiny"
    here = of_run(run)
    assert open_torch_session(here, "torch", "cpu", frozenset()).facts.precision_proven == "fp32"
    (run / "student.safetensors").write_bytes((run / "student.safetensors").read_bytes() + b" ")
    with refuses("runs/tiny", at="bench.runners.torch_reference", fix="torch"):
        open_torch_session(here, "torch", "cpu", frozenset())


@given(st.sampled_from(sorted(runners.OPTIONS)), st.data())
def test_names_with_options_are_read_back(name: str, data: st.DataObject) -> None:
    known = sorted(runners.OPTIONS[name])
    options = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    text = name + (":" + "+".join(options) if options else "")
    assert parse_runner(text) == (name, frozenset(options))
    check_runner(text, "cuda")


@pytest.mark.parametrize(
    ("text", "device", "facts", "fix"),
    [
        ("onnx", "cpu", [], "onnxruntime, ort-tensorrt, tensorrt, torch"),
        ("", "cpu", [], "onnxruntime, ort-tensorrt, tensorrt, torch"),
        ("onnxruntime:", "cuda", [], "onnxruntime, ort-tensorrt, tensorrt, torch"),
        ("onnxruntime:fast", "cuda", ["'fast'", "graph, nhwc"], ()),
        ("ort-tensorrt:graph", "cuda", ["'graph'", "ort-tensorrt"], ()),
        ("onnxruntime:graph", "cpu", ["GPU", "cpu"], "--device cuda"),
        ("ort-tensorrt", "cpu", ["GPU", "cpu"], "--device cuda"),
        ("tensorrt", "cpu", ["GPU", "cpu"], "--device tensorrt"),
    ],
)
def test_runners_that_cannot_be_are_usage_errors(
    subjects: dict[str, BenchModel], text: str, device: str, facts: list, fix: str
) -> None:
    with refuses(f"--runner {text}", *facts, at="bench.runners.runner", fix=fix, kind=UsageError):
        open_runner(subjects["fp32"], text, device)


def test_without_cuda_no_runner_falls_back_to_the_cpu(subjects: dict[str, BenchModel]) -> None:
    if runners.why_not("CUDAExecutionProvider") is None:
        pytest.skip("ONNX Runtime has CUDA here")
    for name in ("onnxruntime", "onnxruntime:graph"):
        with refuses("CUDAExecutionProvider", at="runtimes.onnxruntime_api.open_session", fix="dhox[cuda]"):
            open_runner(subjects["fp32"], name, "cuda")
    with refuses("TensorrtExecutionProvider", at="runtimes.onnxruntime_api.open_session", fix="dhox[cuda]"):
        open_runner(subjects["fp32"], "ort-tensorrt", "cuda")


def test_providers_say_what_they_do_not_prove(
    subjects: dict[str, BenchModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision_facts("fp32", "cpu") == ("fp32", None)
    assert precision_facts("fp16", "cuda") == ("fp16", None)
    for precision, device, note in (
        ("fp16", "cpu", EMULATED),
        ("int8", "cuda", DEQUANTISED),
        ("fp32", "ort-tensorrt", WEAKLY_TYPED),
    ):
        assert precision_facts(precision, device) == (None, note)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fp16 = [provider_options(one, "ort-tensorrt", frozenset())["trt_fp16_enable"] for one in ("fp32", "fp16")]
    assert fp16 == ["False", "True"]
    assert set(provider_options("int8", "ort-tensorrt", frozenset()).values()) == {"True"}
    assert provider_options("fp32", "cuda", frozenset({"nhwc"})) == {"prefer_nhwc": "1"}


def test_the_tensorrt_provider_keeps_an_engine_for_every_batch_size(
    subjects: dict[str, BenchModel], golden: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU session in the place of the TensorRT provider's: which cache each batch runs with."""
    given: list[str] = []
    ran: list[tuple[str, int]] = []

    def opening(model: Any, device: str, *rest: Any, provider_options: dict[str, str], **_: Any) -> Any:
        session = open_session(model, "cpu", *rest)
        given.append(Path(provider_options["trt_engine_cache_path"]).name)
        real, cache = session.run, given[-1]

        def run(names: list[str], feeds: dict[str, np.ndarray], *options: Any) -> Any:
            ran.append((cache, len(feeds["image"])))
            return real(names, feeds, *options)

        session.run = run
        return session

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dhox.runtimes.onnxruntime_session.open_session", opening)
    on_cpu = OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(OrtValue, "ortvalue_from_numpy", lambda array, *_: on_cpu(array))
    with closing(OnnxSession(subjects["fp32"].file, "ort-tensorrt")) as opened:
        opened.bind(golden["input"][:4])
        for batch in (4, 4, 1, 4):
            assert abs(opened.infer(golden["input"][:batch]) - golden["probs"][:batch]).max() < 1e-4
    assert {(cache.rsplit("-", 1)[1], batch) for cache, batch in ran} == {("4", 4), ("1", 1)}
    assert len({cache.rsplit("-", 1)[0] for cache in given}) == 1
    assert [cache.rsplit("-", 1)[1] for cache in given] == ["any", "4", "4", "1", "4"]  # one to count nodes


def test_an_engine_cache_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = engine_cache(b"a", 1)
    assert folder == engine_cache(b"a", 1) != engine_cache(b"b", 1)
    assert engine_cache(b"a", 8) != folder
    folder.chmod(0o777)
    with refuses("dhox/ort-tensorrt", "others", at="runtimes.onnxruntime_session.engine_cache"):
        engine_cache(b"a", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with refuses("dhox/ort-tensorrt", "Not a directory", at="artefacts.files.make_folder", fix="XDG_CACHE_HOME"):
        engine_cache(b"a", 1)


# Devices.


@pytest.fixture
def on_a_jetson(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Jetson whose ONNX Runtime has CUDA or not, as a test says; TensorRT and the GPU are simulated, no engine is loaded."""
    monkeypatch.setattr(runners, "is_jetson", lambda: True)
    monkeypatch.setattr(runners, "gpu", lambda: Gpu("Orin", "8.7"))

    def has_cuda(has: bool) -> None:
        monkeypatch.setattr(runners, "why_not", lambda _: None if has else "no CUDA")

    return has_cuda


def engine_of(subject: BenchModel, export: Path, **device: str) -> BenchModel:
    """A copy of a subject whose export holds the sidecar of an engine, built on this kind of board or on `device`."""
    trt = import_tensorrt()
    sidecar = engine_content("a" * 64, subject.sha256) | {
        "precision": subject.precision, "tensorrt": {"flavour": trt.flavour, "version": trt.version},
        "device": {"gpu": "Orin", "compute_capability": "8.7", "platform": platform_name(), **device},
    }  # fmt: skip
    (export / "engines/one").mkdir(parents=True)
    (export / "engines/one/engine.json").write_text(json.dumps(sidecar))
    return replace(subject, export=export)


def test_an_unknown_device_is_a_usage_error() -> None:
    with refuses("--device gpu", at=CHOOSE, fix="auto, cpu, cuda, tensorrt, jetson", kind=UsageError):
        choose_device("gpu", [])
    assert choose_device("cpu", []) == "cpu"


def test_jetson_elsewhere_says_what_to_do() -> None:
    if runners.is_jetson():
        pytest.skip("this is a Jetson")
    with refuses("--device jetson", "Jetson", at=CHOOSE, fix=("--host", "--device cpu")):
        choose_device("jetson", [])


def test_cuda_needs_its_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "why_not", lambda _: "its libraries are missing")
    with refuses("--device cuda", "its libraries are missing", "dhox[cuda]", at=CHOOSE, fix="--device tensorrt"):
        choose_device("cuda", [])
    monkeypatch.setattr(runners, "why_not", lambda _: None)
    assert choose_device("cuda", []) == "cuda"


def test_a_jetson_takes_an_engine_of_the_export_else_cuda_and_never_the_cpu(
    subjects: dict[str, BenchModel], on_a_jetson: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    with_engine = engine_of(subjects["fp16"], tmp_path / "own")
    plain = subjects["fp32"]
    on_a_jetson(True)
    assert choose_device("jetson", [plain, with_engine]) == "jetson"
    assert default_runners("jetson", with_engine) == ["tensorrt"]
    assert default_runners("jetson", plain) == ["onnxruntime"]
    on_a_jetson(False)
    assert choose_device("jetson", []) == "jetson"  # engines are still to be built
    assert choose_device("jetson", [with_engine]) == "jetson"
    with refuses("--device jetson", "fp32", "CUDA", at=CHOOSE, fix="dhox export EXPORT --tensorrt"):
        choose_device("jetson", [plain])
    assert choose_device("jetson", [with_engine, plain]) == "jetson"  # one of two has its engine: the other is not run


def test_an_engine_of_another_board_is_named(subjects: dict[str, BenchModel], on_a_jetson: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    on_a_jetson(False)
    other = engine_of(subjects["fp16"], tmp_path / "foreign", platform="Linux other")
    with refuses("--device jetson", "Linux other", at=CHOOSE, fix="dhox export EXPORT --tensorrt"):
        choose_device("jetson", [other])


def test_defaults_of_the_plain_devices(subjects: dict[str, BenchModel]) -> None:
    assert default_runners("cpu", subjects["fp32"]) == default_runners("cuda", subjects["fp32"]) == ["onnxruntime"]
    assert default_runners("tensorrt", subjects["fp32"]) == ["tensorrt"]
    assert choose_device("auto", []) == runners.default_device()


@pytest.mark.gpu
@pytest.mark.parametrize("runner", ["onnxruntime", "onnxruntime:graph", "onnxruntime:nhwc", "torch", "torch:graph"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_cuda_answers_as_the_golden_outputs(
    subjects: dict[str, BenchModel], golden: dict[str, np.ndarray], runner: str, precision: str, tolerance: float
) -> None:
    if runner.startswith("onnxruntime") and runners.why_not("CUDAExecutionProvider"):
        pytest.skip("ONNX Runtime has no CUDA here")
    with closing(open_runner(subjects[precision], runner, "cuda")) as opened:
        for n in (1, 8, 1, 5):
            opened.bind(golden["input"][:n])
            opened.run()
            assert abs(opened.infer(golden["input"][-n:]) - golden["probs"][-n:]).max() < tolerance
        assert opened.facts.graph == runner.endswith("graph"), opened.facts.graph_note
        if runner.startswith("onnxruntime"):
            assert opened.facts.nodes_off_device == 0
            assert opened.facts.provider == "CUDAExecutionProvider"


@pytest.mark.gpu
def test_a_graph_that_cannot_be_captured_is_said(subjects: dict[str, BenchModel], tmp_path: Path) -> None:
    """A node that ONNX Runtime leaves to the CPU forbids a graph: the runner goes on without, and shows both."""
    if runners.why_not("CUDAExecutionProvider"):
        pytest.skip("ONNX Runtime has no CUDA here")
    data, scores = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("data", "scores"))
    nodes = [
        helper.make_node("Shape", ["data"], ["shape"]),
        helper.make_node("Reshape", ["data", "shape"], ["flat"]),
        helper.make_node("Det", ["cube"], ["det"]),
        helper.make_node("Einsum", ["flat", "flat"], ["cube"], equation="ni,nj->nij"),
        helper.make_node("Unsqueeze", ["det", "one"], ["column"]),
        helper.make_node("Add", ["flat", "column"], ["scores"]),
    ]
    nodes[2], nodes[3] = nodes[3], nodes[2]
    graph = helper.make_graph(nodes, "cpu", [data], [scores], [helper.make_tensor("one", TensorProto.INT64, [1], [1])])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx"
    )
    with closing(
        open_runner(foreign(subjects["fp32"], tmp_path / "model.onnx"), "onnxruntime:graph", "cuda")
    ) as opened:
        opened.bind(np.ones((2, 3), np.float32))
        opened.run()
        assert (opened.facts.graph_asked, opened.facts.graph) == (True, False)
        assert opened.facts.graph_note
        assert opened.facts.nodes_off_device > 0


def test_the_cache_of_another_user_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine_cache(b"a", 1)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with refuses("dhox/ort-tensorrt", "others", at="runtimes.onnxruntime_session.engine_cache"):
        engine_cache(b"a", 1)

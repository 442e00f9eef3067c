"""The engine runner. A real engine needs a GPU; the rest simulates device, capture and engine in host memory."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from synthetic_engine import SIDE, SyntheticDevice, engine_content, synthetic_device, synthetic_tensorrt

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.engine import Engine
from dhox.bench.bench_models import open_models
from dhox.bench.runners.runner import open_runner
from dhox.errors import DhoxError
from dhox.export.options import Engines
from dhox.models.engines import EXPERIMENTAL, engine_facts
from dhox.runtimes import cuda
from dhox.runtimes.tensorrt_session import EngineSession


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SyntheticDevice:
    return synthetic_device(monkeypatch)


def runner(smallest: int, largest: int, graph: bool = False, **sidecar: Any) -> EngineSession:
    trt, _ = synthetic_tensorrt(smallest, largest)
    engine = msgspec.convert(engine_content("a" * 64, "b" * 64) | sidecar, Engine)
    return EngineSession(trt, b"plan", facts=engine_facts(engine, Path("model.engine"), graph))


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([n, seed]).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def sums(pixels: np.ndarray) -> np.ndarray:
    """What the synthetic engine gives for each image."""
    answer: np.ndarray = pixels.reshape(len(pixels), -1).sum(1)
    return answer


def test_every_batch_is_answered_with_and_without_a_graph(device: SyntheticDevice) -> None:
    @given(st.booleans(), st.integers(1, 4), st.integers(0, 4), st.lists(st.integers(1, 12), min_size=1, max_size=5))
    def check(graph: bool, smallest: int, more: int, sizes: list[int]) -> None:
        opened = runner(smallest, smallest + more, graph)
        opened.bind(images(smallest))
        for seed, n in enumerate(sizes):
            probs = opened.infer(images(n, seed))
            assert (probs.shape, probs.dtype) == ((n, 2), np.float32)
            np.testing.assert_array_equal(probs[:, 0], sums(images(n, seed)))
            assert len(device.graphs) == graph  # it does not outlive the shape that it was captured for
        opened.close()
        assert [device.blocks, device.streams, device.pages, device.graphs] == [{}, set(), set(), {}]

    check()


@pytest.mark.parametrize("graph", [False, True])
def test_run_computes_what_is_bound_without_copies(
    device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch, graph: bool
) -> None:
    opened = runner(1, 8, graph)
    opened.bind(images(3))
    probs = np.empty((3, 2), np.float32)
    for name in ("to_device", "to_host"):
        monkeypatch.setattr(cuda, name, lambda *_: pytest.fail("a copy within the scope `device`"))
    opened.run()
    monkeypatch.setattr(cuda, "to_host", device.to_host)
    cuda.to_host(probs, opened.addresses["probs"], opened.stream)
    np.testing.assert_array_equal(probs[:, 0], sums(images(3)))
    assert device.launches == graph
    assert (opened.facts.graph_asked, opened.facts.graph, opened.facts.graph_note) == (graph, graph, None)


def test_a_graph_that_is_not_captured_is_said_and_replaced(
    device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(stream: int, enqueue: object) -> int:
        raise DhoxError("CUDA: cudaStreamEndCapture failed (operation not permitted).", "Check the driver.")

    monkeypatch.setattr(cuda, "capture", capture)
    opened = runner(1, 8, graph=True)
    opened.bind(images(2))
    np.testing.assert_array_equal(opened.infer(images(2, 1))[:, 0], sums(images(2, 1)))
    assert (opened.facts.graph_asked, opened.facts.graph) == (True, False)
    assert "operation not permitted" in opened.facts.graph_note


def test_what_is_timed_is_never_padded(device: SyntheticDevice) -> None:
    opened = runner(2, 4)
    for n in (1, 5):
        with refuses(2, 4, n, at="runtimes.tensorrt_session.bind", fix=f"--batch 1:8:{n}") as raised:
            opened.bind(images(n))
        assert f"--batch 1:8:{n}" in raised.value.fix
    opened.bind(images(4))


def test_answers_are_not_overwritten_and_types_are_not_converted(device: SyntheticDevice) -> None:
    opened = runner(1, 4)
    first = opened.infer(images(2, 1))
    opened.infer(images(2, 2))
    np.testing.assert_array_equal(first[:, 0], sums(images(2, 1)))
    with pytest.raises(TypeError):
        opened.infer(images(2).astype(np.float32))


def test_facts_are_what_the_sidecar_proves(device: SyntheticDevice) -> None:
    compiled = {"products": {"fp16": 19}, "share": 1.0, "source": "inspector", "differs": {}, "hidden": ["a", "b"]}
    facts = runner(1, 4, compiled=compiled).facts
    assert (facts.precision_asked, facts.precision_proven) == ("fp16", "fp16")
    assert facts.precision_note is not None
    assert all(part in facts.precision_note for part in ("19 of 21", "100%", "fp16"))
    assert (facts.provider, facts.notes) == ("tensorrt 10.3.0", [])
    assert msgspec.json.decode(msgspec.json.encode(facts), type=RunnerFacts) == facts
    rtx = {"flavour": "tensorrt_rtx", "version": "1.7.1"}
    unproven = {"compiled": None, "compiled_note": "not run: no inspector"}
    facts = runner(1, 4, **unproven, tensorrt=rtx, dla_fallback=["a", "b"]).facts
    assert facts.precision_proven is None
    assert facts.precision_note is not None
    assert "no inspector" in facts.precision_note
    assert facts.notes[0] == EXPERIMENTAL
    assert facts.notes[1].startswith("2 layers")


def test_without_a_gpu_the_reason_is_said(line: Path) -> None:
    try:
        cuda.gpu()
        pytest.skip("there is a GPU here")
    except cuda.NoGpuError as err:
        reason = str(err)
    subject = open_models([line / "runs/tiny/export/model.onnx"])[0]
    with pytest.raises(cuda.NoGpuError) as raised:
        open_runner(subject, "tensorrt", "tensorrt")
    assert str(raised.value) == reason


@pytest.mark.gpu
def test_a_real_engine_answers_with_and_without_a_graph(
    own_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from dhox.artefacts.arrays import read_npz
    from dhox.export.engines.engine import build_engines
    from dhox.runtimes.tensorrt_api import import_tensorrt

    try:
        import_tensorrt()
    except DhoxError as err:
        pytest.skip(str(err))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export = own_line / "runs/tiny/export"
    build_engines(export, Engines(precision=("fp32",), batch="1:4:8"), overwrite=True)
    golden = read_npz(export / "golden.npz")
    subject = open_models([export / "model.onnx"])[0]
    contract = replace(subject, export=None, manifest=None)  # built into the user's cache, then found there
    for one, name in (
        (subject, "tensorrt"),
        (subject, "tensorrt:graph"),
        (contract, "tensorrt"),
        (contract, "tensorrt"),
    ):
        with closing(open_runner(one, name, "tensorrt")) as opened:
            for n in (1, 8, 3, 32):
                assert abs(opened.infer(golden["input"][:n]) - golden["probs"][:n]).max() <= 1e-4
            opened.bind(golden["input"][:4])
            opened.run()
            assert opened.facts.graph == name.endswith("graph"), opened.facts.graph_note
            assert opened.facts.precision_proven == "fp32"

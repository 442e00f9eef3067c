"""Batches through an engine. A real one needs a GPU; the rest simulates device memory in host memory (`synthetic_*`).

The names and argument counts that the session calls are held against the real module in test_tensorrt_api.py.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from synthetic_engine import SIDE, SyntheticDevice, synthetic_device, synthetic_tensorrt

from dhox.artefacts.bench import RunnerFacts
from dhox.errors import DhoxError
from dhox.export.options import Engines
from dhox.runtimes import cuda
from dhox.runtimes.tensorrt_session import EngineSession


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SyntheticDevice:
    return synthetic_device(monkeypatch)


def test_every_batch_size_is_answered_row_by_row(device: SyntheticDevice) -> None:
    @given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 30))
    def check(smallest: int, more: int, n: int) -> None:
        trt, batches = synthetic_tensorrt(smallest, smallest + more)
        session = EngineSession(trt, b"plan")
        pixels = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
        probs = session.infer(pixels)
        assert (probs.shape, probs.dtype) == ((n, 2), np.float32)
        np.testing.assert_array_equal(probs[:, 0], pixels.reshape(n, -1).sum(1))
        assert all(smallest <= batch <= smallest + more for batch in batches)
        assert len(batches) == -(-n // (smallest + more))
        session.close()
        assert not device.blocks
        assert not device.streams

    check()


@pytest.mark.parametrize(
    ("fault", "fact", "fix"),
    [
        ("refused", "the engine plan file is not compatible", "dhox export EXPORT --tensorrt"),  # TensorRT's words
        ("memory", "memory", "dhox export EXPORT --tensorrt"),
        ("names", "'scores'", ()),
    ],
)
def test_an_engine_that_cannot_be_opened_is_one_clear_error(
    device: SyntheticDevice, fault: str, fact: str, fix: str
) -> None:
    trt, _ = synthetic_tensorrt(1, 4, **{fault: True})
    with refuses(fact, at="runtimes.tensorrt_session", fix=fix):
        EngineSession(trt, b"plan")
    assert not device.blocks


def test_no_memory_for_the_batch_gives_back_the_rest(device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(size: int) -> int:
        if device.blocks:
            raise DhoxError("CUDA: cudaMalloc failed (out of memory).", "Use a smaller batch.")
        return device.allocate(size)

    monkeypatch.setattr(cuda, "allocate", allocate)
    with pytest.raises(DhoxError, match="smaller batch"):
        EngineSession(synthetic_tensorrt(1, 4)[0], b"plan")
    assert not device.blocks
    assert not device.streams


def test_an_engine_that_does_not_run_is_one_clear_error(device: SyntheticDevice) -> None:
    session = EngineSession(synthetic_tensorrt(1, 4, run=True)[0], b"plan")
    with refuses("engine", at="runtimes.tensorrt_session.execute"):
        session.infer(np.zeros((2, SIDE, SIDE, 3), np.uint8))
    with refuses("[2, 5, 5, 3]", at="runtimes.tensorrt_session.set_batch"):
        session.infer(np.zeros((2, 5, 5, 3), np.uint8))


def graph_asked() -> RunnerFacts:
    return RunnerFacts(device="tensorrt", provider_asked="tensorrt", graph_asked=True)


def test_tensorrt_rtx_runs_in_memory_of_ours_and_gives_it_back(device: SyntheticDevice) -> None:
    trt, _ = synthetic_tensorrt(1, 4, rtx=True)
    session = EngineSession(trt, b"plan", facts=graph_asked())
    pixels = np.ones((2, SIDE, SIDE, 3), np.uint8)
    assert session.infer(pixels)[0, 0] == pixels[0].sum()
    assert session.facts.graph
    session.close()
    assert not device.blocks


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(device: SyntheticDevice) -> None:
    trt, _ = synthetic_tensorrt(1, 4, rtx=True, uncapturable=True)
    session = EngineSession(trt, b"plan", facts=graph_asked())
    session.bind(np.ones((2, SIDE, SIDE, 3), np.uint8))
    assert not session.facts.graph
    assert "cannot be captured" in (session.facts.graph_note or "")
    session.run()
    session.close()


def test_a_lost_gpu_hides_no_cause(device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sticky error every call fails, those that free something too: the first error is what is told."""
    session = EngineSession(synthetic_tensorrt(1, 4)[0], b"plan")

    def lost(stream: int) -> None:
        raise DhoxError("CUDA: cudaStreamSynchronize failed (illegal memory access).", cuda.advice_for(700))

    monkeypatch.setattr(cuda, "synchronize", lost)
    with pytest.raises(DhoxError, match="illegal memory access") as caught, closing(session):
        session.infer(np.ones((2, SIDE, SIDE, 3), np.uint8))
    assert "run the command again" in caught.value.fix
    assert not device.blocks


@pytest.mark.gpu
def test_a_real_engine_answers_as_onnx_runtime_does(
    own_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dhox
    from dhox.export.engines.engine import build_engines
    from dhox.runtimes.tensorrt_api import import_tensorrt

    try:
        import_tensorrt()
    except DhoxError as err:
        pytest.skip(str(err))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export = own_line / "runs/tiny/export"
    built = build_engines(export, Engines(precision=("fp32", "fp16"), batch="1:4:8"), overwrite=True)
    assert [sidecar.golden.passed for sidecar in built] == [True, True]
    images = sorted((own_line / "data/test").rglob("*.png"))[:19]
    engine = dhox.load(export, device="tensorrt", precision="fp32")(images)  # type: ignore[operator]
    onnx = dhox.load(export, device="cpu")(images)  # type: ignore[operator]
    assert abs(engine - onnx).max() <= 1e-4

"""Batches through an engine. A real one needs a GPU; the rest simulates device memory in host memory (`synthetic_*`).

The names and argument counts that the session calls are held against the real module in test_tensorrt_api.py.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox import cuda
from dhox.engine_session import EngineSession
from dhox.errors import DhoxError
from dhox.tensorrt_api import TensorRT

SIDE = 4


class SyntheticDevice:
    """Host memory as device memory: every allocation and stream is counted."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams: set[int] = set()

    def allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        del self.blocks[address]

    def create_stream(self) -> int:
        self.streams.add(7)
        return 7

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.nbytes <= len(self.blocks[address])
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.nbytes <= len(self.blocks[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


def synthetic_tensorrt(smallest: int, largest: int, **faults: bool) -> tuple[TensorRT, list[int]]:
    """An API whose engine gives (sum of the pixels, batch size) as probs, for batches of its profile only."""
    batches: list[int] = []

    class Context:
        shape: tuple[int, ...] = ()
        addresses: dict[str, int] = {}  # noqa: RUF012

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shape = tuple(shape)
            return smallest <= shape[0] <= largest and tuple(shape[1:]) == (SIDE, SIDE, 3)

        def infer_shapes(self) -> list[str]:
            return []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.shape if name == "image" else (self.shape[0], 2)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses = {**self.addresses, name: address}
            return True

        def execute_async_v3(self, stream: int) -> bool:
            n = self.shape[0]
            batches.append(n)
            pixels = np.frombuffer(
                (ctypes.c_uint8 * int(np.prod(self.shape))).from_address(self.addresses["image"]), np.uint8
            )
            probs = np.stack([pixels.reshape(n, -1).sum(1, dtype=np.float32), np.full(n, n, np.float32)], axis=1)
            ctypes.memmove(self.addresses["probs"], probs.ctypes.data, probs.nbytes)
            return not faults.get("run")

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, i: int) -> str:
            return ("image", "scores" if faults.get("names") else "probs")[i]

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            return [(n, SIDE, SIDE, 3) for n in (smallest, smallest, largest)]

        def get_tensor_dtype(self, name: str) -> str:
            return "uint8" if name == "image" else "float32"

        def create_execution_context(self) -> Context | None:
            return None if faults.get("memory") else Context()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            logger.errors.append("the engine plan file is not compatible")
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            return None if faults.get("refused") else Engine()

    severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)
    logger = type("ILogger", (), {"Severity": severity})
    return TensorRT(
        SimpleNamespace(ILogger=logger, Runtime=Runtime, nptype=lambda dtype: dtype), "tensorrt", "10.3.0"
    ), batches


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SyntheticDevice:
    memory = SyntheticDevice()
    for name in ("allocate", "free", "create_stream", "to_device", "to_host"):
        monkeypatch.setattr(cuda, name, getattr(memory, name))
    monkeypatch.setattr(cuda, "destroy_stream", memory.streams.discard)
    monkeypatch.setattr(cuda, "synchronize", lambda stream: None)
    monkeypatch.setattr(cuda, "gpu", lambda: cuda.Gpu("synthetic", "8.7"))
    return memory


def test_every_batch_size_is_answered_row_by_row(device: SyntheticDevice) -> None:
    @given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 30))
    def check(smallest: int, more: int, n: int) -> None:
        trt, batches = synthetic_tensorrt(smallest, smallest + more)
        session = EngineSession(trt, b"plan")
        pixels = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
        (probs,) = session.run(["probs"], {"image": pixels})
        assert (probs.shape, probs.dtype) == ((n, 2), np.float32)
        np.testing.assert_array_equal(probs[:, 0], pixels.reshape(n, -1).sum(1))
        assert all(smallest <= batch <= smallest + more for batch in batches)
        assert len(batches) == -(-n // (smallest + more))
        session.close()
        assert not device.blocks
        assert not device.streams

    check()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refused", r"TensorRT refuses the engine \(the engine plan file is not compatible\)\. Build it again on this"),
        ("memory", "no memory to run the engine"),
        ("names", "has the tensors .*scores"),
    ],
)
def test_an_engine_that_cannot_be_opened_is_one_clear_error(device: SyntheticDevice, fault: str, message: str) -> None:
    trt, _ = synthetic_tensorrt(1, 4, **{fault: True})
    with pytest.raises(DhoxError, match=message):
        EngineSession(trt, b"plan")
    assert not device.blocks


def test_no_memory_for_the_batch_gives_back_the_rest(device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(size: int) -> int:
        if device.blocks:
            raise DhoxError("CUDA: cudaMalloc failed (out of memory). Use a smaller batch.")
        return device.allocate(size)

    monkeypatch.setattr(cuda, "allocate", allocate)
    with pytest.raises(DhoxError, match="smaller batch"):
        EngineSession(synthetic_tensorrt(1, 4)[0], b"plan")
    assert not device.blocks
    assert not device.streams


def test_an_engine_that_does_not_run_is_one_clear_error(device: SyntheticDevice) -> None:
    session = EngineSession(synthetic_tensorrt(1, 4, run=True)[0], b"plan")
    with pytest.raises(DhoxError, match="The engine did not run"):
        session.run(["probs"], {"image": np.zeros((2, SIDE, SIDE, 3), np.uint8)})
    with pytest.raises(DhoxError, match=r"does not take a batch of \[2, 5, 5, 3\]"):
        session.run(["probs"], {"image": np.zeros((2, 5, 5, 3), np.uint8)})


@pytest.mark.gpu
def test_a_real_engine_answers_as_onnx_runtime_does(
    own_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dhox
    from dhox.export.engine import build_engines
    from dhox.tensorrt_api import import_tensorrt

    try:
        import_tensorrt()
    except DhoxError as err:
        pytest.skip(str(err))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export = own_line / "runs/tiny/export"
    built = build_engines(export, precisions=["fp32", "fp16"], batches=(1, 4, 8), overwrite=True)
    assert [sidecar["golden"]["status"] for sidecar in built] == ["passed", "passed"]
    images = sorted((own_line / "data/test").rglob("*.png"))[:19]
    engine = dhox.load(export, device="tensorrt", precision="fp32")(images)  # type: ignore[operator]
    onnx = dhox.load(export, device="cpu")(images)  # type: ignore[operator]
    assert abs(engine - onnx).max() <= 1e-4

"""An engine API and device memory simulated in host memory (`synthetic_*`), for machines without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dhox.runtimes import cuda
from dhox.runtimes.tensorrt_api import TensorRT

SIDE = 4


class SyntheticDevice:
    """Host memory as device memory: every allocation and stream is counted."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.pages: set[int] = set()
        self.graphs: dict[int, Callable[[], None]] = {}
        self.launches = 0

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

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.pages.add(array.ctypes.data)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        self.pages.remove(array.ctypes.data)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Nothing runs while it is captured."""
        number = len(self.graphs) + 100
        self.graphs[number] = enqueue
        return number

    def launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        self.graphs[graph]()


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

        def set_device_memory(self, address: int, size: int) -> None:
            self.addresses = {**self.addresses, "": address}

        def is_stream_capturable(self, stream: int) -> bool:
            return not faults.get("uncapturable")

        def execute_async_v3(self, stream: int) -> bool:
            assert not faults.get("rtx") or "" in self.addresses
            n = self.shape[0]
            batches.append(n)
            pixels = np.frombuffer(
                (ctypes.c_uint8 * int(np.prod(self.shape))).from_address(self.addresses["image"]), np.uint8
            )
            probs = np.stack([pixels.reshape(n, -1).sum(1, dtype=np.float32), np.full(n, n, np.float32)], axis=1)
            ctypes.memmove(self.addresses["probs"], probs.ctypes.data, probs.nbytes)
            return not faults.get("run")

    class RuntimeConfig:
        allocation, dynamic_shapes_kernel_specialization_strategy = "STATIC", "LAZY"

        def set_execution_context_allocation_strategy(self, strategy: str) -> None:
            self.allocation = strategy

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, i: int) -> str:
            return ("image", "scores" if faults.get("names") else "probs")[i]

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            return [(n, SIDE, SIDE, 3) for n in (smallest, smallest, largest)]

        def get_tensor_dtype(self, name: str) -> str:
            return "uint8" if name == "image" else "float32"

        device_memory_size_v2 = 64

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

        def create_execution_context(self, config: RuntimeConfig | None = None) -> Context | None:
            if faults.get("rtx"):  # what TensorRT-RTX says to an engine built with REQUIRE_USER_ALLOCATION
                assert config is not None
                assert (config.allocation, config.dynamic_shapes_kernel_specialization_strategy) == (
                    "USER_MANAGED", "EAGER"
                )  # fmt: skip
                return Context()
            return None if faults.get("memory") else Context()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            logger.errors.append("the engine plan file is not compatible")
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            return None if faults.get("refused") else Engine()

    severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)
    logger = type("ILogger", (), {"Severity": severity})
    strategies = {
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        "DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="EAGER"),
    }
    api = type("Api", (), {"ILogger": logger, "Runtime": Runtime, "nptype": staticmethod(np.dtype), **strategies})
    return TensorRT(
        api, "tensorrt_rtx" if faults.get("rtx") else "tensorrt", "1.7.1" if faults.get("rtx") else "10.3.0"
    ), batches


def synthetic_device(monkeypatch: pytest.MonkeyPatch) -> SyntheticDevice:
    """Put host memory in the place of the device's for one test."""
    memory = SyntheticDevice()
    for name in (
        "allocate", "free", "create_stream", "to_device", "to_host", "pinned", "free_pinned", "capture", "launch"
    ):  # fmt: skip
        monkeypatch.setattr(cuda, name, getattr(memory, name))
    monkeypatch.setattr(cuda, "destroy_stream", memory.streams.discard)
    monkeypatch.setattr(cuda, "destroy_graph", memory.graphs.pop)
    monkeypatch.setattr(cuda, "synchronize", lambda stream: None)
    monkeypatch.setattr(cuda, "gpu", lambda: cuda.Gpu("synthetic", "8.7"))
    return memory


def engine_content(plan_sha256: str, onnx_sha256: str) -> dict[str, Any]:
    """engine.json of a small fp16 engine, `model.engine` of 4 bytes, built on a Jetson from `model.fp16.onnx`."""
    return {
        "schema": "dhox.engine/2", "status": "complete", "finished_at": "2026-01-01T00:00:00.000000+00:00",
        "folder": "sm87-trt10-fp16-00000000", "precision": "fp16",
        "onnx": {"file": "model.fp16.onnx", "sha256": onnx_sha256},
        "engine": {"file": "model.engine", "bytes": 4, "sha256": plan_sha256},
        "tensorrt": {"flavour": "tensorrt", "version": "10.3.0"},
        "device": {"gpu": "synthetic", "compute_capability": "8.7", "platform": "Linux aarch64"},
        "options": {}, "dla_fallback": [],
        "parsed": {"products": {"fp16": 21}, "share": 1.0, "layers_by_type": {"HALF": 30}},
        "compiled": {"products": {"fp16": 21}, "share": 1.0, "source": "inspector", "differs": {}, "hidden": []},
        "compiled_note": None, "golden": None, "golden_note": "not run: no GPU here", "ledger": None,
        "ledger_note": "not run: no GPU here", "build_seconds": 1.0, "trust": "",
    }  # fmt: skip

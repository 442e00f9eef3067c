"""A TensorRT or TensorRT-RTX engine, deserialised: CUDA graph by the CUDA runtime, pinned host memory."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.embeddings import EMBEDDING
from dhox.errors import DhoxError, dhox_command
from dhox.runtimes import cuda
from dhox.runtimes.tensorrt_api import TensorRT, message_logger

CONTEXT = ""  # no tensor has this name
AGAIN = "Build it again on this machine: dhox export EXPORT --tensorrt --overwrite"


class EngineSession:
    """A Session (see dhox.runtimes.runtime) of an engine, by `execute_async_v3` on a stream of its own.

    `smallest`, `largest`: the batches of its optimisation profile; others are padded and split, but never timed so.
    """

    def __init__(
        self,
        trt: TensorRT,
        plan: bytes,
        *,
        host_code: bool = False,
        dla: int | None = None,
        names: tuple[str, str] = ("image", "probs"),
        facts: RunnerFacts | None = None,
        name: str = "tensorrt",
    ) -> None:
        """`host_code`: whether the engine may bring host code, as a version-compatible one does. `dla`: its DLA core.

        `names`: of its input and its output. `facts`: what its builder proved of it, and whether a CUDA graph is
        asked for, which is then captured for every shape.

        Deserialising can run code of the engine's author: only engines that the user trusts (`dhox.models.engines`).
        Raises DhoxError where there is no GPU, or where TensorRT refuses the engine, in its own words.
        """
        cuda.gpu()
        self.name = name
        library = f"{trt.flavour} {trt.version}"
        self.facts = facts or RunnerFacts(device="tensorrt", provider_asked="tensorrt", provider=library)
        self.trt, self.logger = trt, message_logger(trt)
        self.runtime = trt.api.Runtime(self.logger)
        self.runtime.engine_host_code_allowed = host_code
        if dla is not None:
            self.runtime.DLA_core = dla
        self.engine: Any = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.error("TensorRT refuses the engine")
        self.input, self.output = names
        found = {self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)}
        if found - {EMBEDDING} != set(names):
            raise DhoxError(
                f"The engine has the tensors {sorted(found)}, not {names[0]} and {names[1]}.",
                "Build it from an export.",
            )
        smallest, _, largest = self.engine.get_tensor_profile_shape(self.input, 0)
        self.smallest, self.largest = int(smallest[0]), int(largest[0])
        self.dtypes = {name: np.dtype(trt.api.nptype(self.engine.get_tensor_dtype(name))) for name in found}
        self.context: Any = None
        self.addresses: dict[str, int] = {}  # on the device, sized for the largest batch; and the context's memory
        self.graph: int | None = None
        self.host: list[np.ndarray] = []  # pinned: the input, the output
        self.bound_shape: tuple[int, ...] | None = None
        self.stream = cuda.create_stream()
        try:
            self.context = self.create_context()
            self.set_batch(tuple(largest))
            for name in sorted(found):  # an engine runs only where all its outputs have a place
                size = int(np.prod(tuple(self.context.get_tensor_shape(name)))) * self.dtypes[name].itemsize
                self.addresses[name] = cuda.allocate(size)
                if not self.context.set_tensor_address(name, self.addresses[name]):
                    raise self.error(f"The engine takes no address for {name}")
        except BaseException:
            self.close()
            raise

    def create_context(self) -> Any:
        """What runs the engine.

        TensorRT-RTX captures a context only where its memory is the caller's. By default it makes kernels for a shape
        beside the first runs of it, and a graph that is captured meanwhile keeps the slow ones that stand in for them.
        """
        api = self.trt.api
        if self.trt.flavour == "tensorrt_rtx":
            runtime_config = self.engine.create_runtime_config()
            runtime_config.set_execution_context_allocation_strategy(
                api.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self.engine.create_execution_context(runtime_config)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise self.error("TensorRT has no memory to run the engine")
        if self.trt.flavour == "tensorrt_rtx":
            size = max(1, self.engine.device_memory_size_v2)
            self.addresses[CONTEXT] = cuda.allocate(size)
            context.set_device_memory(self.addresses[CONTEXT], size)
        return context

    def error(self, what: str) -> DhoxError:
        """What went wrong, with TensorRT's own words and what to do."""
        return DhoxError(f"{what} ({'; '.join(self.logger.errors[-3:]) or 'it gives no reason'}).", AGAIN)

    def set_batch(self, shape: tuple[int, ...]) -> None:
        """Set the input's shape; raises DhoxError where the engine does not take it."""
        try:
            taken = self.context.set_input_shape(self.input, shape) and not self.context.infer_shapes()
        except RuntimeError:  # of infer_shapes; the reason is in the log
            taken = False
        if not taken:
            raise self.error(f"The engine does not take a batch of {list(shape)}")

    def bind(self, batch: np.ndarray) -> None:
        """See Session. Raises DhoxError for a batch outside the engine's profile: what is timed is never padded."""
        if not self.smallest <= len(batch) <= self.largest:
            build = dhox_command("export", "EXPORT", "--tensorrt", "--batch", f"1:8:{len(batch)}")
            raise DhoxError(
                f"The engine takes batches of {self.smallest} to {self.largest}, not {len(batch)}.",
                f"Leave that batch out, or build one for it: {build}",
            )
        self.place(batch.shape)
        self.upload(batch)
        self.execute()  # once as it is: memory is allocated and kernels are loaded before a capture
        cuda.synchronize(self.stream)
        note = None
        if self.facts.graph_asked:
            try:
                self.graph = self.capture()
            except DhoxError as err:
                note = str(err)
        self.facts = msgspec.structs.replace(self.facts, graph=self.graph is not None, graph_note=note)

    def capture(self) -> int:
        """The CUDA graph of the batch that is set. Raises DhoxError where it cannot be captured."""
        can = getattr(self.context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if can is not None and not can(self.stream):
            raise self.error("TensorRT says that this engine cannot be captured with this batch")
        return cuda.capture(self.stream, self.execute)

    def place(self, shape: tuple[int, ...]) -> None:
        """Pinned memory for batches of this shape, in the place of what was bound."""
        self.release()
        self.set_batch(shape)
        answer = tuple(self.context.get_tensor_shape(self.output))
        self.host.append(cuda.pinned(shape, self.dtypes[self.input]))
        self.host.append(cuda.pinned(answer, self.dtypes[self.output]))
        self.bound_shape = shape

    def upload(self, batch: np.ndarray) -> None:
        """Copy a batch of the bound shape to the device, in the stream's order."""
        np.copyto(self.host[0], batch, casting="no")
        cuda.to_device(self.addresses[self.input], self.host[0], self.stream)

    def execute(self) -> None:
        """Put one inference of the batch that is set on the stream, without waiting; raises DhoxError."""
        if not self.context.execute_async_v3(self.stream):
            raise self.error("The engine did not run")

    def enqueue(self) -> None:
        """The same, by the CUDA graph where there is one."""
        if self.graph is None:
            self.execute()
        else:
            cuda.launch(self.graph, self.stream)

    def run(self) -> None:
        """See Session."""
        self.enqueue()
        cuda.synchronize(self.stream)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Session. Batches outside the engine's profile are padded with copies of the last image, and split."""
        if len(batch) <= self.largest:
            return self.infer_part(batch)
        parts = [batch[i : i + self.largest] for i in range(0, len(batch), self.largest)]
        return np.concatenate([self.infer_part(part) for part in parts])

    def infer_part(self, part: np.ndarray) -> np.ndarray:
        """The output of at most `largest` images."""
        missing = max(0, self.smallest - len(part))
        padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        if padded.shape != self.bound_shape:
            if self.facts.graph_asked:
                self.bind(padded)
            else:
                self.place(padded.shape)
        self.upload(padded)
        self.enqueue()
        cuda.to_host(self.host[1], self.addresses[self.output], self.stream)
        cuda.synchronize(self.stream)
        return self.host[1][: len(part)].copy()

    def layer_information(self) -> str:
        """The inspector's JSON; with the largest batch set, so that it shows the formats of dynamic shapes too."""
        self.release()
        self.set_batch(tuple(self.engine.get_tensor_profile_shape(self.input, 0)[2]))
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = self.context
        return str(inspector.get_engine_information(self.trt.api.LayerInformationFormat.JSON))

    def release(self) -> None:
        """Give back what was bound: a graph must not outlive the shape that it was captured for."""
        self.bound_shape = None
        if self.graph is not None:
            cuda.destroy_graph(self.graph)
            self.graph = None
        while self.host:
            cuda.free_pinned(self.host.pop())

    def close(self) -> None:
        """Give back the device's memory."""
        self.release()
        self.context = None
        for address in self.addresses.values():
            cuda.free(address)
        self.addresses.clear()
        if self.stream:
            cuda.destroy_stream(self.stream)
            self.stream = 0
        self.engine = None

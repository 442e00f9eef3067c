"""A TensorRT engine, deserialised and called with batches in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.errors import DhoxError
from dhox.runtimes import cuda
from dhox.runtimes.tensorrt_api import TensorRT, message_logger

INPUT, OUTPUT = "image", "probs"


class EngineSession:
    """A deserialised engine on the GPU, called as an ONNX Runtime session is. Use it in one thread; `close` it.

    `smallest`, `largest`: the batches of its optimisation profile; others are padded and split. For a timed runner:
    `context`, `stream`, and the device `addresses` of the input and the output, sized for the largest batch.
    """

    def __init__(
        self,
        trt: TensorRT,
        plan: bytes,
        host_code: bool = False,
        dla: int | None = None,
        names: tuple[str, str] = (INPUT, OUTPUT),
    ) -> None:
        """`host_code`: whether the engine may bring host code, as a version-compatible one does. `dla`: its DLA core.

        `names`: of its input and its output.

        Deserialising can run code of the engine's author: only engines that the user trusts (`dhox.models.engines`).
        Raises DhoxError where there is no GPU, or where TensorRT refuses the engine, in its own words.
        """
        cuda.gpu()
        self.logger = message_logger(trt)
        self.runtime = trt.api.Runtime(self.logger)
        self.runtime.engine_host_code_allowed = host_code
        if dla is not None:
            self.runtime.DLA_core = dla
        self.engine: Any = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.error("TensorRT refuses the engine")
        self.context: Any = self.engine.create_execution_context()
        if self.context is None:
            raise self.error("TensorRT has no memory to run the engine")
        self.input, self.output = names
        found = {self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)}
        if found != set(names):
            raise DhoxError(
                f"The engine has the tensors {sorted(found)}, not {names[0]} and {names[1]}.",
                "Build it from an export.",
            )
        smallest, _, largest = self.engine.get_tensor_profile_shape(self.input, 0)
        self.smallest, self.largest = int(smallest[0]), int(largest[0])
        self.dtypes = {name: np.dtype(trt.api.nptype(self.engine.get_tensor_dtype(name))) for name in found}
        self.addresses: dict[str, int] = {}
        self.stream = cuda.create_stream()
        try:
            self.set_batch(tuple(largest))
            for name in names:
                size = int(np.prod(tuple(self.context.get_tensor_shape(name)))) * self.dtypes[name].itemsize
                self.addresses[name] = cuda.allocate(size)
                self.context.set_tensor_address(name, self.addresses[name])
        except DhoxError:
            self.close()
            raise

    def error(self, what: str) -> DhoxError:
        """What went wrong, with TensorRT's own words and what to do."""
        words = "; ".join(self.logger.errors[-3:]) or "it gives no reason"
        return DhoxError(
            f"{what} ({words}).", "Build it again on this machine: dhox export EXPORT --tensorrt --overwrite"
        )

    def set_batch(self, shape: tuple[int, ...]) -> None:
        """Set the input's shape; raises DhoxError where the engine does not take it."""
        if not self.context.set_input_shape(self.input, shape) or self.context.infer_shapes():
            raise self.error(f"The engine does not take a batch of {list(shape)}")

    def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """`probs` [B, C] in host memory of `image` [B, ...], as `InferenceSession.run(["probs"], {"image": batch})`."""
        assert outputs == [self.output]
        assert set(feeds) == {self.input}
        batch = np.ascontiguousarray(feeds[self.input], self.dtypes[self.input])
        parts = [self.run_part(batch[i : i + self.largest]) for i in range(0, len(batch), self.largest)]
        return [np.concatenate(parts)]

    def run_part(self, part: np.ndarray) -> np.ndarray:
        """Probabilities of at most `largest` images; fewer than `smallest` are padded with copies of the last."""
        missing = max(0, self.smallest - len(part))
        padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        self.set_batch(padded.shape)
        probs = np.empty(tuple(self.context.get_tensor_shape(self.output)), self.dtypes[self.output])
        cuda.to_device(self.addresses[self.input], padded, self.stream)
        self.enqueue()
        cuda.to_host(probs, self.addresses[self.output], self.stream)
        cuda.synchronize(self.stream)
        return probs[: len(part)]

    def enqueue(self) -> None:
        """Put one inference of the batch that is set on the stream, without waiting; raises DhoxError."""
        if not self.context.execute_async_v3(self.stream):
            raise self.error("The engine did not run")

    def layer_information(self, trt: TensorRT) -> str:
        """The inspector's JSON; with the largest batch set, so that it shows the formats of dynamic shapes too."""
        largest = self.engine.get_tensor_profile_shape(self.input, 0)[2]
        self.set_batch(tuple(largest))
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = self.context
        return str(inspector.get_engine_information(trt.api.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Give back the device's memory."""
        for address in self.addresses.values():
            cuda.free(address)
        self.addresses.clear()
        if self.stream:
            cuda.destroy_stream(self.stream)
            self.stream = 0
        self.context = self.engine = None

"""A torch module as a Session: the reference that exported files are compared with (a board has no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from dhox.artefacts.bench import RunnerFacts
from dhox.errors import DhoxError, first_line

HALF_ON_CPU = "a CPU's half precision says nothing about a GPU"
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchSession:
    """A Session (see dhox.runtimes.runtime) of a torch module: eager on the CPU or on CUDA, or a CUDA graph there.

    `module`: from a batch as the graph takes it to probs, on any device yet; the session changes its mode and device.
    `precision`: what it computes in, for the facts.
    """

    def __init__(
        self, module: nn.Module, device: str = "cpu", *, precision: str = "fp32", graph: bool = False,
        name: str = "torch",
    ) -> None:  # fmt: skip
        if device != "cpu" and not torch.cuda.is_available():
            raise DhoxError(
                "The runner torch finds no CUDA device.", "Install a CUDA build of torch, or use --device cpu."
            )
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in every other runner
        self.name = name
        self.device = torch.device("cpu" if device == "cpu" else "cuda")
        self.module = module.eval().to(self.device)
        self.stream: Any = torch.cuda.Stream() if self.device.type == "cuda" else None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())  # the weights are there
        self.graph: Any = None
        self.input = torch.empty(0)
        self.output = torch.empty(0)
        self.bound_shape: tuple[int, ...] | None = None
        emulated = precision in HALVES and device == "cpu"
        self.facts = RunnerFacts(
            device="cpu" if device == "cpu" else "cuda", provider_asked="torch",
            provider=f"torch {torch.__version__} {self.device.type}", graph_asked=graph, precision_asked=precision,
            precision_proven=None if emulated else precision, precision_note=HALF_ON_CPU if emulated else None,
        )  # fmt: skip

    def bind(self, batch: np.ndarray) -> None:
        """See Session. Captures the CUDA graph of this shape."""
        self.graph, note = None, None
        try:
            with self.on_stream():
                self.input = torch.from_numpy(batch.copy()).to(self.device)
                self.output = self.module(self.input)
        except RuntimeError as err:
            raise DhoxError(
                f"torch does not run a batch of {len(batch)} ({first_line(err)}).", "Leave that batch out."
            ) from err
        if self.facts.graph_asked:
            try:
                self.capture()
            except RuntimeError as err:  # of the end of the capture; what broke it comes first
                note = first_line(err.__context__ or err)
        self.facts = msgspec.structs.replace(self.facts, graph=self.graph is not None, graph_note=note)
        self.bound_shape = batch.shape

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Inference on a stream of this session's own, as every runner has one; the thread's is current again after."""
        with torch.inference_mode():
            if self.stream is None:
                yield
                return
            before = torch.cuda.current_stream()
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:  # a capture that fails leaves its stream current
                torch.cuda.set_stream(before)

    def capture(self) -> None:
        """Capture the module on the bound input, after three runs of it, as torch documents it."""
        with self.on_stream():
            for _ in range(3):
                self.module(self.input)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.output = self.module(self.input)
        self.graph = graph

    def run(self) -> None:
        """See Session."""
        with self.on_stream():
            if self.graph is None:
                self.output = self.module(self.input)
            else:
                self.graph.replay()
            if self.stream is not None:
                self.stream.synchronize()

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Session."""
        if self.facts.graph_asked and batch.shape != self.bound_shape:
            self.bind(batch)
        with self.on_stream():
            host = torch.from_numpy(np.ascontiguousarray(batch))
            if self.graph is None:
                output = self.module(host.to(self.device))
            else:
                self.input.copy_(host)
                self.graph.replay()
                output = self.output
            probs: np.ndarray = output.float().cpu().numpy()
        return probs

    def close(self) -> None:
        """See Session."""
        self.graph = None
        self.input = self.output = torch.empty(0)
        self.module = nn.Identity()


def to_half(module: Any, precision: str) -> None:
    """Backbone and linear layers in half precision; normalisation, softmax and probs stay float32, as exported.

    `module`: a Deployable. `precision`: fp16 or bf16.
    """
    dtype = HALVES[precision]
    module.backbone.to(dtype)
    module.backbone.register_forward_pre_hook(lambda _, images: tuple(image.to(dtype) for image in images))
    for parameter in module.head.parameters():
        parameter.data = parameter.data.to(dtype)

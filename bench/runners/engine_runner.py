"""TensorRT and TensorRT-RTX engines as a runner: one code path, CUDA graph by the CUDA runtime, pinned host memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.bench.bench_models import Subject
from dhox.errors import DhoxError
from dhox.export.engines.cached_engine import open_cached_engine, plan_of
from dhox.models.engines import PLAN_FILE, open_engine
from dhox.runtimes import cuda
from dhox.runtimes.cuda import gpu
from dhox.runtimes.tensorrt_session import EngineSession

EXPERIMENTAL = "TensorRT-RTX is experimental here: dhox builds and checks its engines, and has not run one yet"


class EngineRunner:
    """A Runner (see dhox.bench.runners.runner) of an opened engine, by `execute_async_v3` on a stream of its own.

    `sidecar`: what its builder wrote of it (see dhox.export.engines.engine). `graph`: whether `run` replays a CUDA
    graph, which is captured for every shape that is bound.
    """

    def __init__(self, session: EngineSession, sidecar: dict[str, Any], name: str, graph: bool) -> None:
        self.session, self.name, self.graph_asked = session, name, graph
        self.graph: int | None = None
        self.host: list[np.ndarray] = []  # pinned: the input, the output
        self.bound_shape: tuple[int, ...] | None = None
        tensorrt = sidecar["tensorrt"]
        status = sidecar["engine_precision"]["status"]
        share = sidecar["engine_precision"].get("share", sidecar["graph_precision"]["share"])
        self.facts: dict[str, Any] = {
            "device": "tensorrt",
            "provider_asked": "tensorrt",
            "provider": f"{tensorrt['flavour']} {tensorrt['version']}",
            "graph_asked": graph,
            "graph": False,
            "graph_note": None,
            "precision_asked": sidecar["precision"],
            "precision_proven": sidecar["precision"] if status.startswith("proven") else None,
            "precision_note": f"{status}; {share:.0%} of convolutions and matrix products {sidecar['precision']}",
            "nodes_off_device": 0,
            "notes": [EXPERIMENTAL] if tensorrt["flavour"] == "tensorrt_rtx" else [],
        }
        if sidecar["dla_fallback"]:
            self.facts["notes"].append(f"{len(sidecar['dla_fallback'])} layers run on the GPU, not on DLA")

    def bind(self, batch: np.ndarray) -> None:
        """See Runner. Raises DhoxError for a batch outside the engine's profile: what is timed is never padded."""
        session = self.session
        if not session.smallest <= len(batch) <= session.largest:
            raise DhoxError(
                f"The engine takes batches of {session.smallest} to {session.largest}, not {len(batch)}.",
                "Build one for "
                f"it with dhox export EXPORT --tensorrt --batch 1:8:{len(batch)}, or leave that batch out.",
            )
        self.release()
        session.set_batch(batch.shape)
        answer = tuple(session.context.get_tensor_shape(session.output))
        self.host.append(cuda.pinned(batch.shape, session.dtypes[session.input]))
        self.host.append(cuda.pinned(answer, session.dtypes[session.output]))
        self.upload(batch)
        session.enqueue()  # once as it is: memory is allocated and kernels are loaded before a capture
        cuda.synchronize(session.stream)
        self.facts["graph_note"] = None
        if self.graph_asked:
            try:
                self.graph = cuda.capture(session.stream, session.enqueue)
            except DhoxError as err:
                self.facts["graph_note"] = str(err)
        self.facts["graph"] = self.graph is not None
        self.bound_shape = batch.shape

    def upload(self, batch: np.ndarray) -> None:
        """Copy a batch of the bound shape to the device, in the stream's order."""
        np.copyto(self.host[0], batch, casting="no")
        cuda.to_device(self.session.addresses[self.session.input], self.host[0], self.session.stream)

    def enqueue(self) -> None:
        """Put one inference on the stream."""
        if self.graph is None:
            self.session.enqueue()
        else:
            cuda.launch(self.graph, self.session.stream)

    def run(self) -> None:
        """See Runner."""
        self.enqueue()
        cuda.synchronize(self.session.stream)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Runner. Batches outside the engine's profile are padded and split, and leave nothing bound."""
        session = self.session
        if not session.smallest <= len(batch) <= session.largest:
            self.release()
            return session.run([session.output], {session.input: batch})[0]
        if batch.shape != self.bound_shape:
            self.bind(batch)
        self.upload(batch)
        self.enqueue()
        cuda.to_host(self.host[1], session.addresses[session.output], session.stream)
        cuda.synchronize(session.stream)
        return self.host[1].copy()

    def release(self) -> None:
        """Give back what `bind` took: a graph must not outlive the shape that it was captured for."""
        self.bound_shape = None
        if self.graph is not None:
            cuda.destroy_graph(self.graph)
            self.graph = None
        while self.host:
            cuda.free_pinned(self.host.pop())

    def close(self) -> None:
        """See Runner."""
        self.release()
        self.session.close()


def open_engine_runner(subject: Subject, name: str, options: frozenset[str], trust_engine: bool) -> EngineRunner:
    """The runner of the export's newest fitting engine; of a model without an export, of one built and kept here.

    Raises DhoxError with the reason against every engine that does not fit, and where TensorRT or a GPU is missing.
    """
    gpu()
    if subject.export is not None and subject.manifest is not None:
        sidecar, session = open_engine(subject.export, subject.manifest, subject.precision, trust_engine)
        plan = subject.export / "engines" / sidecar["folder"] / PLAN_FILE
    else:
        names = (subject.input_name, subject.output_name)
        sidecar, session = open_cached_engine(subject.file, subject.precision, names)
        plan = plan_of(sidecar)
    runner = EngineRunner(session, sidecar, name, "graph" in options)
    runner.facts["engine"] = str(plan)  # for trtexec
    return runner

"""An ONNX file opened by ONNX Runtime: its CPU, CUDA and TensorRT providers, on a GPU by I/O binding."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.bench import RunnerFacts
from dhox.artefacts.files import make_folder, sha256, user_cache
from dhox.errors import DhoxError, first_line, require
from dhox.models.onnx_file import check_onnx
from dhox.runtimes.onnxruntime_api import PROVIDERS, nodes_run, open_session

EMULATED = "the CPU provider computes half precision and Q/DQ in fp32: its time says nothing about a GPU"
DEQUANTISED = "the CUDA provider dequantises and computes in floats: TensorRT is what computes in int8"
WEAKLY_TYPED = (
    "the TensorRT provider does not say what precision a layer has: a weakly typed TensorRT 10 may choose another, and "
    "TF32 for fp32; the runner `tensorrt` proves its precision"
)
NO_CAPTURE = "-1"  # the gpu_graph_id of runs that are neither captured nor replayed


class OnnxSession:
    """A Session (see dhox.runtimes.runtime) on `cpu`, `cuda` or `ort-tensorrt` (see PROVIDERS).

    A CUDA graph belongs to the thread that captured it: open, bind and run in the same one. On `ort-tensorrt` every
    batch size has a session and an engine cache of its own: with one for all, ONNX Runtime widens the engine's profile
    to every shape that comes, keeps that for the next process, and tunes the engine for the largest. (Profiles given as
    options would do too, but ONNX Runtime refuses them where the graph is cut into several parts.)
    """

    def __init__(
        self,
        model: Path | bytes,
        device: str = "cpu",
        *,
        precision: str = "fp32",
        names: tuple[str, str] = ("image", "probs"),
        options: frozenset[str] = frozenset(),
        name: str = "onnxruntime",
        spinning: bool = True,
    ) -> None:
        """`precision`: what the file states. `names`: of its input and its output. `options`: of {"graph", "nhwc"}, on
        `cuda` only. `spinning`: see open_session. Raises DhoxError where the provider does not start or does not take
        the file."""
        self.name, self.model, self.device, self.names = name, model, device, names
        self.precision, self.spinning = precision, spinning
        self.options, self.graph_asked = provider_options(precision, device, options), "graph" in options
        proven, note = precision_facts(precision, device)
        self.facts = RunnerFacts(
            device="cpu" if device == "cpu" else "cuda", provider_asked=PROVIDERS[device], provider=PROVIDERS[device],
            graph_asked=self.graph_asked, precision_asked=precision, precision_proven=proven, precision_note=note,
            nodes_off_device=0 if device == "cpu" else None,
        )  # fmt: skip
        self.ort = require("onnxruntime", "cpu")
        self.bound_shape: tuple[int, ...] | None = None
        self.tuned_for: int | None = None  # the batch size of the session's TensorRT engine
        self.graphs = 0
        self.input: Any = None
        self.output: Any = None
        self.open(self.graph_asked)
        first = (self.session.get_inputs()[0].shape or [None])[0]
        self.fixed_batch = self.tuned_for = first if isinstance(first, int) else None

    def note(self, **facts: Any) -> None:
        """Keep what was found out."""
        self.facts = msgspec.structs.replace(self.facts, **facts)

    def asked(self) -> dict[str, str]:
        """What the provider is told."""
        if self.device != "ort-tensorrt":
            return self.options
        return self.options | {"trt_engine_cache_path": str(engine_cache(self.model, self.tuned_for))}

    def open(self, graph: bool) -> None:
        """Open the session; where it cannot have a CUDA graph, one without, and say why."""
        capture = {"enable_cuda_graph": "1"} if graph else {}
        try:
            self.session = open_session(
                self.model,
                self.device,
                provider_options=self.asked() | capture,
                precision=self.precision,
                spinning=self.spinning,
            )
        except Exception as err:  # ONNX Runtime's own exceptions share no type
            if not graph:
                raise self.failure("does not open", "", err) from err
            self.note(graph_note=first_line(err))
            self.open(graph=False)
            return
        self.note(graph=graph, provider=self.session.get_providers()[0])
        self.binding = self.session.io_binding()
        # None without a graph: ONNX Runtime 1.32 takes 26 us more per run where options name no graph.
        self.run_options: Any = None  # with a graph: those of the bound shape

    def bind(self, batch: np.ndarray) -> None:
        """See Session. Captures the CUDA graph of this shape, and counts the nodes off the device the first time."""
        self.place(np.ascontiguousarray(batch))
        if self.facts.nodes_off_device is None:
            self.count_nodes(batch)

    def place(self, batch: np.ndarray) -> None:
        """Arrays on the device for a batch of this shape, filled by one run of it."""
        self.bound_shape = None
        if self.device == "ort-tensorrt" and self.tuned_for != len(batch):
            self.tuned_for = len(batch)
            self.open(graph=False)
        plain = self.ort.RunOptions()
        plain.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
        answer = self.run_once(batch, plain)
        place = "cpu" if self.device == "cpu" else "cuda"
        # On the CPU an OrtValue is the array itself, so both are copies of this session's own.
        self.input = self.ort.OrtValue.ortvalue_from_numpy(batch.copy(), place, 0)
        self.output = self.ort.OrtValue.ortvalue_from_numpy(np.zeros_like(answer), place, 0)
        self.binding.bind_ortvalue_input(self.names[0], self.input)
        self.binding.bind_ortvalue_output(self.names[1], self.output)
        if self.facts.graph:
            self.graphs += 1
            self.run_options = self.ort.RunOptions()  # a second id for the same options is a warning on stderr
            self.run_options.add_run_config_entry("gpu_graph_id", str(self.graphs))
        try:
            self.run()
        except Exception as err:
            if not self.facts.graph:
                raise
            self.note(graph_note=first_line(err))
            self.open(graph=False)
            self.place(batch)
        self.bound_shape = batch.shape

    def run_once(self, batch: np.ndarray, options: Any = None) -> np.ndarray:
        """The output of a batch without binding. Raises DhoxError in ONNX Runtime's own words."""
        try:
            answer: np.ndarray = self.session.run([self.names[1]], {self.names[0]: batch}, options)[0]
        except Exception as err:
            raise self.failure("does not run", f" with a batch of {len(batch)}", err) from err
        return answer

    def failure(self, what: str, how: str, err: Exception) -> DhoxError:
        """What ONNX Runtime refused, in its own words."""
        if isinstance(err, DhoxError):
            return err
        model = "the graph" if isinstance(self.model, bytes) else self.model
        fixed = getattr(self, "fixed_batch", None)
        return DhoxError(
            f"ONNX Runtime {what} {model}{how} ({first_line(err)}).",
            f"The file takes batches of {fixed} only: use that size, or export it with a dynamic batch."
            if fixed
            else "Leave it out, use another runtime, or compare the versions of onnxruntime.",
        )

    def count_nodes(self, batch: np.ndarray) -> None:
        """How many nodes run on another device than was asked, by one profiled run in a session of its own."""
        with TemporaryDirectory() as folder:
            profile = Path(folder, "profile")
            session = open_session(
                self.model, self.device, profile, provider_options=self.asked(), precision=self.precision
            )
            session.run([self.names[1]], {self.names[0]: batch})
            providers = Counter(provider for _, _, provider in nodes_run(session))
        self.note(nodes_off_device=providers[PROVIDERS["cpu"]])
        if self.device == "ort-tensorrt" and (outside := providers[PROVIDERS["cuda"]]):
            self.note(notes=[f"{outside} nodes run on CUDA, outside TensorRT's engines"])

    def run(self) -> None:
        """See Session. ONNX Runtime waits for the device at the end of a run, a replayed CUDA graph included."""
        self.session.run_with_iobinding(self.binding, self.run_options)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Session. On the CPU without binding: ONNX Runtime reads the caller's array and makes its own output."""
        if self.device == "cpu":
            return self.run_once(batch)
        batch = np.ascontiguousarray(batch)
        if batch.shape != self.bound_shape:
            self.place(batch)
        self.input.update_inplace(batch)
        self.session.run_with_iobinding(self.binding, self.run_options)
        answer: np.ndarray = self.output.numpy()
        return answer

    def infer_all(self, batch: np.ndarray) -> list[np.ndarray]:
        """Every output of a batch, in the graph's order, without binding. Raises DhoxError as `infer`."""
        try:
            return [np.asarray(output) for output in self.session.run(None, {self.names[0]: batch})]
        except Exception as err:
            raise self.failure("does not run", f" with a batch of {len(batch)}", err) from err

    def close(self) -> None:
        """See Session."""
        self.input = self.output = self.binding = self.session = None


def precision_facts(precision: str, device: str) -> tuple[str | None, str | None]:
    """The precision that the file's types prove, and what else there is to say of it."""
    if device == "ort-tensorrt":
        return None, WEAKLY_TYPED
    if device == "cpu" and precision != "fp32":
        return None, EMULATED
    return (None, DEQUANTISED) if precision == "int8" else (precision, None)  # it computes in the file's types


def provider_options(precision: str, device: str, options: frozenset[str]) -> dict[str, str]:
    """What the provider is told beyond `open_session`'s own settings, for every batch size.

    ONNX Runtime's Python binding reads the switches of the TensorRT provider as "True" and "False" alone.
    """
    if "nhwc" in options:
        return {"prefer_nhwc": "1"}
    if device == "ort-tensorrt":
        return {
            "trt_fp16_enable": str(precision in {"fp16", "int8"}),  # int8 files rest in fp16
            "trt_int8_enable": str(precision == "int8"),
            "trt_engine_cache_enable": "True",
        }
    return {}


def engine_cache(model: Path | bytes, batch: int | None) -> Path:
    """Where the TensorRT provider keeps its engines of one model: a folder of this user, per ONNX Runtime version and
    batch size (None: the file's own, or any before one is known, when no engine is built).

    What lies there is loaded as code, so nobody else may write it. Raises DhoxError where it cannot be made.
    """
    content = hashlib.sha256(require("onnxruntime", "cuda").__version__.encode())
    if isinstance(model, bytes):
        content.update(model)
    else:
        for file in [model, *sorted({model.parent / name for name in check_onnx(model).external})]:
            content.update(sha256(file).encode())
    folder = user_cache("ort-tensorrt") / f"{content.hexdigest()[:16]}-{batch or 'any'}"
    make_folder(folder, "Set XDG_CACHE_HOME to a folder of your own.", 0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise DhoxError(f"{folder} can be written by others, and engines in it are run as code.", "Delete it.")
    return folder

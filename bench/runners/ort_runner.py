"""ONNX Runtime as a runner: its CPU, CUDA and TensorRT providers, by I/O binding."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dhox.artefacts.files import user_cache
from dhox.bench.bench_models import Subject
from dhox.errors import DhoxError, first_line, require
from dhox.runtimes.onnxruntime_session import PROVIDERS, nodes_run, open_session

EMULATED = "the CPU provider computes half precision and Q/DQ in fp32: its time says nothing about a GPU"
DEQUANTISED = "the CUDA provider dequantises and computes in floats: TensorRT is what computes in int8"
WEAKLY_TYPED = (
    "the TensorRT provider is weakly typed: TensorRT may choose another precision for a layer, and TF32 for fp32; "
    "the runner `tensorrt` proves its precision"
)
NO_CAPTURE = "-1"  # the gpu_graph_id of runs that are neither captured nor replayed


class OnnxRuntimeRunner:
    """A Runner (see dhox.bench.runners.runner) of one ONNX file on `cpu`, `cuda` or `ort-tensorrt` (see PROVIDERS).

    A CUDA graph belongs to the thread that captured it: open, bind and run in the same one. On `ort-tensorrt` every
    batch size has a session and an engine cache of its own: with one for all, ONNX Runtime widens the engine's profile
    to every shape that comes, keeps that for the next process, and tunes the engine for the largest. (Profiles given as
    options would do too, but ONNX Runtime refuses them where the graph is cut into several parts.)
    """

    def __init__(self, subject: Subject, name: str, device: str, options: frozenset[str] = frozenset()) -> None:
        """`options`: of {"graph", "nhwc"}, on `cuda` only. Raises DhoxError where the provider does not start."""
        self.name, self.device = name, device
        self.subject = subject
        self.provider_options = provider_options(subject, device, options)
        self.facts: dict[str, Any] = {
            "device": "cpu" if device == "cpu" else "cuda",
            "provider_asked": PROVIDERS[device],
            "provider": None,
            "graph_asked": "graph" in options,
            "graph": False,
            "graph_note": None,
            "precision_asked": subject.precision,
            **precision_facts(subject.precision, device),
            "nodes_off_device": 0 if device == "cpu" else None,
            "notes": [],
        }
        self.ort = require("onnxruntime", "cpu")
        self.bound_shape: tuple[int, ...] | None = None
        self.tuned_for = subject.fixed_batch  # the batch size of the session's TensorRT engine
        self.graphs = 0
        self.input: Any = None
        self.output: Any = None
        self.open(graph="graph" in options)

    def open(self, graph: bool) -> None:
        """Open the session; where it cannot have a CUDA graph, one without, and say why."""
        capture = {"enable_cuda_graph": "1"} if graph else {}
        try:
            self.session = open_session(
                self.subject.file, self.device, provider_options=self.provider_options | capture
            )
        except Exception as err:  # ONNX Runtime's own exceptions share no type
            if not graph:
                raise self.failure(f"does not open {self.subject.file}", err) from err
            self.facts["graph_note"] = first_line(err)
            self.open(graph=False)
            return
        self.facts["graph"] = graph
        self.facts["provider"] = self.session.get_providers()[0]
        self.binding = self.session.io_binding()
        # None without a graph: ONNX Runtime 1.32 takes 26 us more per run where options name no graph.
        self.run_options: Any = self.ort.RunOptions() if graph else None

    def bind(self, batch: np.ndarray) -> None:
        """See Runner. Captures the CUDA graph of this shape, and counts the nodes off the device the first time."""
        batch = np.ascontiguousarray(batch)
        self.bound_shape = None
        if self.device == "ort-tensorrt" and self.tuned_for != len(batch):
            self.tuned_for = len(batch)
            self.provider_options |= {"trt_engine_cache_path": str(engine_cache(self.subject.sha256, len(batch)))}
            self.open(graph=False)
        if self.facts["nodes_off_device"] is None:
            self.count_nodes(batch)
        plain = self.ort.RunOptions()
        plain.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
        names = self.subject.input_name, self.subject.output_name
        try:
            answer = self.session.run([names[1]], {names[0]: batch}, plain)[0]
        except Exception as err:
            raise self.failure(f"does not run {self.subject.file} with a batch of {len(batch)}", err) from err
        place = "cpu" if self.device == "cpu" else "cuda"
        # On the CPU an OrtValue is the array itself, so both are copies of this runner's own.
        self.input = self.ort.OrtValue.ortvalue_from_numpy(batch.copy(), place, 0)
        self.output = self.ort.OrtValue.ortvalue_from_numpy(np.zeros_like(answer), place, 0)
        self.binding.bind_ortvalue_input(names[0], self.input)
        self.binding.bind_ortvalue_output(names[1], self.output)
        if self.facts["graph"]:
            self.graphs += 1
            self.run_options.add_run_config_entry("gpu_graph_id", str(self.graphs))
        try:
            self.run()
        except Exception as err:
            if not self.facts["graph"]:
                raise
            self.facts["graph_note"] = first_line(err)
            self.open(graph=False)
            self.bind(batch)
        self.bound_shape = batch.shape

    def failure(self, what: str, err: Exception) -> DhoxError:
        """What ONNX Runtime refused, in its own words."""
        if isinstance(err, DhoxError):
            return err
        return DhoxError(
            f"ONNX Runtime {what} ({first_line(err)}).", "Leave it out, or measure it with another runner."
        )

    def count_nodes(self, batch: np.ndarray) -> None:
        """How many nodes run on another device than was asked, by one profiled run in a session of its own."""
        with TemporaryDirectory() as folder:
            session = open_session(
                self.subject.file, self.device, Path(folder, "profile"), provider_options=self.provider_options
            )
            session.run([self.subject.output_name], {self.subject.input_name: batch})
            providers = Counter(provider for _, _, provider in nodes_run(session))
        self.facts["nodes_off_device"] = providers[PROVIDERS["cpu"]]
        if self.device == "ort-tensorrt" and providers[PROVIDERS["cuda"]]:
            self.facts["notes"].append(f"{providers[PROVIDERS['cuda']]} nodes run on CUDA, outside TensorRT's engines")

    def run(self) -> None:
        """See Runner. ONNX Runtime waits for the device at the end of a run, a replayed CUDA graph included."""
        self.session.run_with_iobinding(self.binding, self.run_options)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Runner. On the CPU without binding: ONNX Runtime reads the caller's array and makes its own output."""
        answer: np.ndarray
        if self.device == "cpu":
            answer = self.session.run([self.subject.output_name], {self.subject.input_name: batch})[0]
            return answer
        if batch.shape != self.bound_shape:
            self.bind(batch)
        self.input.update_inplace(np.ascontiguousarray(batch))
        self.session.run_with_iobinding(self.binding, self.run_options)
        answer = self.output.numpy()
        return answer

    def close(self) -> None:
        """See Runner."""
        self.input = self.output = self.binding = self.session = None


def precision_facts(precision: str, device: str) -> dict[str, str | None]:
    """What the provider computes in, as far as the file's types prove it."""
    if device == "ort-tensorrt":
        return {"precision_proven": None, "precision_note": WEAKLY_TYPED}
    if device == "cpu" and precision != "fp32":
        return {"precision_proven": None, "precision_note": EMULATED}
    if precision == "int8":
        return {"precision_proven": None, "precision_note": DEQUANTISED}
    return {"precision_proven": precision, "precision_note": None}  # it computes in the file's types


def provider_options(subject: Subject, device: str, options: frozenset[str]) -> dict[str, str]:
    """What the provider is told beyond `open_session`'s own settings."""
    if "nhwc" in options:
        return {"prefer_nhwc": "1"}
    if device == "ort-tensorrt":
        return {
            "trt_fp16_enable": "1" if subject.precision in {"fp16", "int8"} else "0",  # int8 files rest in fp16
            "trt_int8_enable": "1" if subject.precision == "int8" else "0",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engine_cache(subject.sha256, subject.fixed_batch)),
        }
    return {}


def engine_cache(sha256: str, batch: int | None) -> Path:
    """Where the TensorRT provider keeps its engines of one file: a folder of this user, per ONNX Runtime version and
    batch size (None before any is known; no engine is built there).

    What lies there is loaded as code, so nobody else may write it. Raises DhoxError where it cannot be made.
    """
    key = hashlib.sha256(f"{sha256} {require('onnxruntime', 'cuda').__version__}".encode()).hexdigest()[:16]
    folder = user_cache("ort-tensorrt") / f"{key}-{batch or 'any'}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise DhoxError(
            f"Could not create {folder}: {err.strerror}.", "Set XDG_CACHE_HOME to a folder of your own."
        ) from err
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise DhoxError(f"{folder} can be written by others, and engines in it are run as code.", "Delete it.")
    return folder

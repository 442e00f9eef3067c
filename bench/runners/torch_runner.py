"""The torch runner: the reference that exported files are compared with (needs torch; a board does not)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dhox.artefacts.files import RUN_FILE, sha256
from dhox.artefacts.run import read_run
from dhox.bench.bench_models import Subject
from dhox.distill.students.student import WEIGHTS_FILE, load_student
from dhox.errors import DhoxError, first_line
from dhox.export.folding.fold import Fold
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays

HALF_ON_CPU = "a CPU's half precision says nothing about a GPU"
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRunner:
    """A Runner (see dhox.bench.runners.runner) of a torch module: eager on the CPU or on CUDA, or a CUDA graph there.

    `module`: from a graph-layout batch to probs, on any device yet. `precision`: what it computes in, for the facts.
    """

    def __init__(
        self, module: nn.Module, name: str = "torch", device: str = "cpu", precision: str = "fp32", graph: bool = False
    ) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise DhoxError(
                "The runner torch finds no CUDA device.", "Install a CUDA build of torch, or use --device cpu."
            )
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in every other runner
        self.name = name
        self.device = torch.device("cpu" if device == "cpu" else "cuda")
        self.module = module.eval().to(self.device)
        self.graph_asked = graph
        self.graph: Any = None
        self.input = torch.empty(0)
        self.output = torch.empty(0)
        self.bound_shape: tuple[int, ...] | None = None
        self.facts: dict[str, Any] = {
            "device": self.device.type,
            "provider_asked": "torch",
            "provider": f"torch {torch.__version__} {self.device.type}",
            "graph_asked": graph,
            "graph": False,
            "graph_note": None,
            "precision_asked": precision,
            "precision_proven": None if precision in HALVES and device == "cpu" else precision,
            "precision_note": HALF_ON_CPU if precision in HALVES and device == "cpu" else None,
            "nodes_off_device": None,
            "notes": [],
        }

    def bind(self, batch: np.ndarray) -> None:
        """See Runner. Captures the CUDA graph of this shape."""
        self.graph = self.facts["graph_note"] = None
        self.input = torch.from_numpy(batch.copy()).to(self.device)
        try:
            with torch.inference_mode():
                self.output = self.module(self.input)
        except RuntimeError as err:
            raise DhoxError(
                f"torch does not run a batch of {len(batch)} ({first_line(err)}).", "Leave that batch out."
            ) from err
        if self.graph_asked:
            with torch.inference_mode():
                self.capture()
        self.facts["graph"] = self.graph is not None
        self.bound_shape = batch.shape

    def capture(self) -> None:
        """Capture the module on the bound input, after three runs on a stream of its own, as torch documents it."""
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.module(self.input)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.output = self.module(self.input)
            self.graph = graph
        except RuntimeError as err:
            self.facts["graph_note"] = first_line(err)

    def run(self) -> None:
        """See Runner."""
        with torch.inference_mode():
            if self.graph is None:
                self.output = self.module(self.input)
            else:
                self.graph.replay()
            if self.device.type == "cuda":
                torch.cuda.synchronize()

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Runner."""
        if self.graph_asked and batch.shape != self.bound_shape:
            self.bind(batch)
        with torch.inference_mode():
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
        """See Runner."""
        self.graph = None
        self.input = self.output = torch.empty(0)
        self.module = nn.Identity()


def open_torch_runner(subject: Subject, name: str, device: str, options: frozenset[str]) -> TorchRunner:
    """The student of the run that an export came from, with the head that the export folded.

    Raises DhoxError for a model without an export, where the run is not on this machine or was trained again, and for
    int8, which torch does not compute.
    """
    if subject.manifest is None:
        raise DhoxError(
            f"The runner torch needs the run behind a model, and {subject.file} has no export.", "Leave it out."
        )
    if subject.precision not in {"fp32", *HALVES}:
        raise DhoxError(
            f"The runner torch has no {subject.precision}.", "Give it the fp32 or fp16 model: --precision fp32."
        )
    run = Path(subject.manifest["run"]["path"])
    if not (run / RUN_FILE).is_file():
        raise DhoxError(f"The runner torch needs the run of this export, and {run} is not here.", "Leave it out.")
    if sha256(run / WEIGHTS_FILE) != subject.manifest["run"]["weights_sha256"]:
        raise DhoxError(
            f"The run in {run} was trained again since this export.", "Export it again, or leave torch out."
        )
    module = deployable(run, Fold(**subject.manifest["fold"]), subject.input_kind)
    if subject.precision in HALVES:
        to_half(module, HALVES[subject.precision])
    return TorchRunner(module, name, device, subject.precision, "graph" in options)


def deployable(run: Path, fold: Fold, input_kind: str = "uint8-nhwc") -> Deployable:
    """A run's student with the head that `fold` describes."""
    summary = read_run(run)
    student = load_student(run, summary.student)
    return Deployable(student.backbone, folded_head(head_arrays(student), fold), summary.preprocessing, input_kind)


def to_half(module: Deployable, dtype: torch.dtype) -> None:
    """Backbone and linear layers in half precision; normalisation, softmax and probs stay float32, as exported."""
    module.backbone.to(dtype)
    module.backbone.register_forward_pre_hook(lambda _, images: tuple(image.to(dtype) for image in images))
    for parameter in module.head.parameters():
        parameter.data = parameter.data.to(dtype)

"""ONNX Runtime as a runner."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhox.bench.subjects import Subject
from dhox.onnx_session import PROVIDERS, open_session

EMULATED = "the CPU provider computes half precision and Q/DQ in fp32: its time says nothing about a GPU"


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU or on CUDA."""

    name = "onnxruntime"

    def __init__(self, subject: Subject, device: str) -> None:
        self.session: Any = open_session(subject.file, device)
        self.names = (subject.input_name, subject.output_name)
        self.bound: np.ndarray | None = None
        provider = self.session.get_providers()[0]
        emulated = device == "cpu" and subject.precision != "fp32"
        self.facts: dict[str, Any] = {
            "device": device, "provider_asked": PROVIDERS[device], "provider": provider, "graph_asked": False,
            "graph": False, "graph_note": None, "precision_asked": subject.precision,
            "precision_proven": None, "precision_note": EMULATED if emulated else None,
            "nodes_off_device": None, "notes": [],
        }  # fmt: skip

    def bind(self, batch: np.ndarray) -> None:
        """See Runner."""
        self.bound = np.ascontiguousarray(batch)

    def run(self) -> None:
        """See Runner."""
        self.session.run([self.names[1]], {self.names[0]: self.bound})

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """See Runner."""
        output: np.ndarray = self.session.run([self.names[1]], {self.names[0]: batch})[0]
        return output

    def close(self) -> None:
        """See Runner."""
        self.session = None

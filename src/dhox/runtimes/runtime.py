"""The protocol of every runtime: an opened model that answers batches, and what it says of itself.

A new runtime is one file with a class that has these five members; `dhox.bench.runners.runner` gives it a name.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dhox.artefacts.bench import RunnerFacts


class Session(Protocol):
    """One opened model on one device. One thread opens, binds, runs and closes it.

    `name`: the runner as asked, NAME[:OPTION[+OPTION]]. `facts`: complete after the first `bind`.
    """

    name: str
    facts: RunnerFacts

    def infer(self, batch: np.ndarray) -> np.ndarray:
        """The graph's raw output [B, C] in host memory, of a batch [B, ...] of any size in host memory.

        Answers when the output is there; how often that copies and waits differs by runtime (docs/bench.md). Where the
        shape differs from what is bound, it binds first. Raises DhoxError where the runtime refuses the batch.
        """

    def bind(self, batch: np.ndarray) -> None:
        """Put a batch [B, ...], as the graph takes it, where `run` finds it, and run it once.

        Whatever depends on the shape is allocated, tuned or captured now, outside any timing.
        """

    def run(self) -> None:
        """One inference of what is bound, waited for. Inputs and outputs stay on the device (scope `device`)."""

    def close(self) -> None:
        """Give back sessions and memory."""

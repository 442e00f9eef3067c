"""What a fake device saw: waits of the host, copies that wait, pinned memory, and which of it was inside a training step."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dhox.distill.training import train
from dhox.distill.training.prefetch import Batch, Batches


@dataclass(frozen=True)
class Event:
    """One wait of the host or one copy that waits: `what`, by which line of dhox (`where`), inside a `step` or not."""

    kind: str
    what: str
    where: str
    step: bool

    def __str__(self) -> str:
        return f"{self.what}, {self.where}"


@dataclass
class Seen:
    """`steps`: training steps begun; `operators`: operators on the device; `fast_copies`: pinned and non-blocking."""

    events: list[Event] = field(default_factory=list)
    steps: int = 0
    operators: int = 0
    fast_copies: int = 0
    in_step: bool = False
    pinned: dict[int, torch.Tensor] = field(default_factory=dict)  # kept, so that no address is given out again

    def wait(self, what: str) -> None:
        """The host waits for the device here."""
        self._add("wait", what)

    def copy(self, tensor: torch.Tensor, non_blocking: bool) -> None:
        """`tensor` goes to the device."""
        if self.is_pinned(tensor) and non_blocking:
            self.fast_copies += 1
        else:
            self._add("copy", f"copy of {'pinned' if self.is_pinned(tensor) else 'pageable'} memory to the device"
                              f"{'' if non_blocking else ', blocking'}")  # fmt: skip

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` lies in pinned memory from now on."""
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` lies in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self.pinned

    def waits(self, *, step: bool | None = None) -> Counter[str]:
        """Waits of the host by their places; `step`: those inside a training step, or those outside."""
        return self._count("wait", step)

    def copies(self, *, step: bool | None = None) -> Counter[str]:
        """Copies to the device that wait, as `waits`."""
        return self._count("copy", step)

    def _count(self, kind: str, step: bool | None) -> Counter[str]:
        return Counter(str(e) for e in self.events if e.kind == kind and step in (None, e.step))

    def _add(self, kind: str, what: str) -> None:
        inside = self.in_step and threading.current_thread() is threading.main_thread()
        self.events.append(Event(kind, what, place(), inside))

    @contextmanager
    def watching_steps(self) -> Iterator[None]:
        """A step of dhox.distill.training.train goes from a batch to the progress bar's next move."""
        batches_of, progress_bar = Batches.of, train.progress_bar

        def of(batches: Batches, steps: range) -> Iterator[Batch]:
            for batch in batches_of(batches, steps):
                self.steps += 1
                self.in_step = True
                yield batch

        @contextmanager
        def bar(*args: Any) -> Iterator[Any]:
            with progress_bar(*args) as advance:

                def and_end_the_step(n: int, note: str | None = None) -> None:
                    self.in_step = False
                    advance(n, note)

                yield and_end_the_step

        Batches.of, train.progress_bar = of, bar  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Batches.of, train.progress_bar = batches_of, progress_bar  # type: ignore[method-assign]


def place() -> str:
    """The innermost line of dhox that led here: `distill.training.train:118 train`."""
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("dhox."):
            return f"{module.removeprefix('dhox.')}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside dhox"

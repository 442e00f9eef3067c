"""Host batches of a training, prepared ahead by threads while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from dhox.distill.images.student_inputs import HostViews, StudentInputs
from dhox.distill.teachers.view_targets import ViewTargets
from dhox.distill.training.batch_sampler import BatchSampler

T = TypeVar("T")
AHEAD = 4  # finished batches that wait, beyond the one that each thread works on


@dataclass(frozen=True)
class Batch:
    """One step's inputs on the host, pinned where the device is a GPU.

    `numbers`: int64 [B], labelled images first. `views`: what the student sees. `targets`: what the teacher says of
    these views, or sees of them (see ViewTargets); None without a teacher.
    """

    numbers: torch.Tensor
    views: HostViews
    targets: torch.Tensor | None


@dataclass(frozen=True)
class Batches:
    """This process's part of every step's batch; `threads` make them ahead of their use, `pin`: in pinned memory."""

    sampler: BatchSampler
    inputs: StudentInputs
    targets: ViewTargets | None
    threads: int
    pin: bool
    rank: int = 0
    world: int = 1

    @property
    def n_labelled(self) -> int:
        """Labelled images of a batch."""
        return self.sampler.batch_labelled // self.world

    def of(self, steps: range) -> Iterator[Batch]:
        """The batches of these steps, in order."""
        return ahead(self.make, steps, self.threads)

    def make(self, step: int) -> Batch:
        """The batch of one step."""
        numbers, views = self.sampler.batch(step, self.rank, self.world)
        drawn = self.inputs.on_host(numbers, views, self.pin)
        small = [torch.from_numpy(numbers)]
        if self.targets is not None:
            small.append(self.targets.of_views(numbers, views))
        if self.pin:  # a copy from pageable memory would wait for the device
            small = [tensor.pin_memory() for tensor in small]
        return Batch(small[0], drawn, small[1] if self.targets is not None else None)


def ahead(make: Callable[[int], T], steps: range, threads: int) -> Iterator[T]:
    """make(step) for every step in order, computed ahead by threads."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) >= AHEAD + threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

"""A CUDA device that is not there: tensors say `cuda:0` and the CPU computes them; what CUDA would refuse is refused.

    with fake_cuda() as seen:
        dhox.distill(..., device="cuda", compiled=False)
    seen.waits()     # where the host waits for the device: {"what, where": how often}
    seen.copies()    # copies to the device that wait, since their memory is not pinned or since they are blocking

The values are real, so whole commands run to their end, on the numbers of a CPU. Refused as on a GPU: operands on two
devices (but for numbers and indices), a generator of another device, `.numpy()` of a device tensor, pinning one. Not
seen: kernels that CUDA lacks, memory, streams, torch.compile, and whether a non-blocking copy is read too early.
torch.autocast("cuda") becomes the CPU's, whose lists of operators differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

from dhox.distill.images.pixels import channels
from fake_cuda.entry_points import EntryPoints
from fake_cuda.patches import patches
from fake_cuda.seen import Seen
from fake_cuda.tensor import CudaTensor

__all__ = ["CudaTensor", "Seen", "fake_cuda"]


@contextmanager
def fake_cuda() -> Iterator[Seen]:
    """Inside the block, this process has one CUDA device. Threads that start there pin memory on it, and no more."""
    seen = Seen()
    channels.cache_clear()  # what an earlier device left there
    with ExitStack() as stack:
        stack.callback(channels.cache_clear)
        for (where, name), value in patches(seen).items():
            stack.enter_context(mock.patch.object(where, name, value))
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        stack.enter_context(EntryPoints(seen))
        stack.enter_context(CudaTensor.watched_by(seen))
        yield seen

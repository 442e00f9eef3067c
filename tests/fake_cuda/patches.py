"""torch.cuda, and what asks it, as on a machine with one GPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import lightning_fabric.accelerators.cuda as fabric_cuda
import torch

from fake_cuda.seen import Seen, place
from fake_cuda.tensor import CudaTensor

MEMORY = 1 << 36
NAME = "a GPU that is not there"


def patches(seen: Seen) -> dict[tuple[Any, str], Any]:
    """What to put in place of which attribute."""
    empty, autocast = torch.empty, torch.amp.autocast_mode.autocast.__init__

    class CudaEvent:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def record(self, *_: Any) -> None: ...
        def wait(self, *_: Any) -> None: ...
        def query(self) -> bool:
            return True

        def elapsed_time(self, _: Any) -> float:
            return 1.0

        def synchronize(self) -> None:
            seen.wait("Event.synchronize")

    class CudaStream:
        def wait_stream(self, _: Any) -> None: ...
        def synchronize(self) -> None:
            seen.wait("Stream.synchronize")

    def pinned_empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:  # threads have no mode
        made = empty(*args, **kwargs)
        return seen.pin(made) if pin_memory else made

    def pinned(tensor: torch.Tensor, _: Any = None) -> torch.Tensor:
        if isinstance(tensor, CudaTensor):
            raise RuntimeError(f"cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned ({place()})")
        return seen.pin(tensor.clone())

    def autocast_of_the_host(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    of_cuda = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "_lazy_init": nothing,
        "set_device": nothing, "empty_cache": nothing, "manual_seed": nothing, "manual_seed_all": nothing,
        "synchronize": lambda *_: seen.wait("torch.cuda.synchronize"), "Event": CudaEvent,
        "Stream": CudaStream, "stream": nullcontext, "current_stream": lambda *_: CudaStream(), "set_stream": nothing,
        "mem_get_info": lambda *_: (MEMORY, MEMORY), "max_memory_allocated": lambda *_: 1 << 20,
        "reset_peak_memory_stats": nothing, "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: (9, 0), "is_bf16_supported": lambda *_, **__: True,
        "get_device_properties": lambda *_: SimpleNamespace(name=NAME, total_memory=MEMORY, major=9, minor=0),
    }  # fmt: skip
    return {(torch.cuda, name): value for name, value in of_cuda.items()} | {
        (torch, "empty"): pinned_empty, (torch.Tensor, "pin_memory"): pinned, (torch, "inference_mode"): torch.no_grad,
        (torch.amp.autocast_mode.autocast, "__init__"): autocast_of_the_host,
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check"): nothing,
        (torch.accelerator, "is_available"): lambda *_: True,
        (torch.accelerator, "current_device_index"): lambda: 0, (torch.accelerator, "set_device_index"): nothing,
        (fabric_cuda, "num_cuda_devices"): lambda: 1, (fabric_cuda, "is_cuda_available"): lambda: True,
        (fabric_cuda, "_clear_cuda_memory"): nothing, (fabric_cuda, "_check_cuda_matmul_precision"): nothing,
    }  # fmt: skip


def nothing(*_: Any) -> None:
    """Nothing to do without a device."""

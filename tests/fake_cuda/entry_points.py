"""Functions of torch that take a device or pinned memory: what they mean on the fake device."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fake_cuda.seen import Seen, place
from fake_cuda.tensor import CPU, CudaTensor, move


def is_cuda(device: Any) -> bool:
    """Whether this names the fake device."""
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


class EntryPoints(TorchFunctionMode):
    """Sends what goes to `cuda`, or is made there, to the fake device."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return move(self.seen, args[0], False, False)
        if func is torch.Tensor.cuda:
            return move(self.seen, args[0], True, bool(kwargs.get("non_blocking")))
        if func is torch.Tensor.to:
            return self.to(args[0], list(args[1:]), kwargs)
        if func is torch.nn.functional.one_hot and isinstance(args[0], CudaTensor):
            return CudaTensor(func(args[0].host, *args[1:], **kwargs))  # its C++ asks the wrapper for its device
        if is_cuda(kwargs.get("device")) and getattr(func, "__name__", "") != "_parse_to":
            return self.make(func, args, kwargs)
        if kwargs.get("pin_memory"):
            return self.seen.pin(func(*args, **(kwargs | {"pin_memory": False})))
        return func(*args, **kwargs)

    def to(self, tensor: torch.Tensor, rest: list[Any], kwargs: dict[str, Any]) -> torch.Tensor:
        """Tensor.to in all its spellings: device, dtype, both, or those of another tensor."""
        device = kwargs.pop("device", None)
        if rest and isinstance(rest[0], torch.Tensor):
            device, rest[0] = rest[0].device, rest[0].dtype
        elif rest and (rest[0] is None or isinstance(rest[0], str | torch.device)):
            device = rest.pop(0)
        non_blocking = bool(kwargs.pop("non_blocking", False))
        if len(rest) > 1 and isinstance(rest[-1], bool):
            non_blocking = rest.pop()
        rest = [argument for argument in rest if argument is not None]
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        moved = tensor if device is None else move(self.seen, tensor, is_cuda(device), non_blocking)
        return torch.Tensor.to(moved, *rest, **kwargs) if rest or kwargs else moved

    def make(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """torch.zeros(..., device="cuda") and its like."""
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({place()})")
        if kwargs.get("pin_memory"):
            raise RuntimeError(f"Only dense CPU tensors can be pinned ({place()})")
        made = func(*args, **(kwargs | {"device": CPU}))
        if isinstance(made, CudaTensor):
            return made
        if getattr(func, "__name__", "") in ("tensor", "as_tensor"):
            self.seen.copy(made, non_blocking=False)
        on_device = CudaTensor(made)
        return on_device.requires_grad_() if made.requires_grad else on_device

"""The tensor of the fake device: wraps a CPU tensor, says `cuda:0`, and sends every operator through the device's rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from fake_cuda.seen import Seen, place

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ops = torch.ops.aten
# These take operands of both devices: a copy, and indices from the host.
INDEXING = {ops.index.Tensor, ops.index_put_.default, ops.index_put.default, ops._index_put_impl_.default}
TAKES_BOTH = {ops.copy_.default, *INDEXING}
# The shape of the answer, or the answer as a number of Python, hangs on values: the host waits.
WAITS = {
    ops._local_scalar_dense.default, ops.nonzero.default, ops.masked_select.default, ops.equal.default,
    ops._unique2.default, ops.unique_dim.default, ops.unique_consecutive.default, ops.repeat_interleave.Tensor,
}  # fmt: skip


class CudaTensor(torch.Tensor):
    """A tensor of the fake device; `host` holds its values."""

    host: torch.Tensor
    seen: Seen = Seen()
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> CudaTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device=CPU, requires_grad=False,
        )  # fmt: skip
        made.host = host.detach()
        return made

    @classmethod
    @contextmanager
    def watched_by(cls, seen: Seen) -> Iterator[None]:
        """Waits and copies of these tensors are told to `seen`."""
        before, cls.seen = cls.seen, seen
        try:
            with seen.watching_steps():
                yield
        finally:
            cls.seen = before

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.host!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first ({place()})")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        self.seen.wait("tolist")
        return self.host.tolist()

    def __deepcopy__(self, memo: Any) -> Any:
        made = CudaTensor(self.host.clone())
        return torch.nn.Parameter(made, self.requires_grad) if getattr(self, "_is_param", False) else made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(cls.seen, func, args, kwargs or {})


def dispatch(seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute one operator on the host's values, after CUDA's rules; results are the device's."""
    seen.operators += 1
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    refuse_mixtures(func, leaves, tensors)
    if func in WAITS:
        seen.wait(str(func))
    elif func in INDEXING:
        watch_indexing(seen, func, args)
    elif func is ops.copy_.default:
        watch_copy(seen, args, kwargs)
    # An operator in place answers with its own operand: give that one back, not a new tensor on it.
    same = {id(t.host if isinstance(t, CudaTensor) else t): t for t in tensors}
    args, kwargs = tree_map_only(CudaTensor, lambda t: t.host, (args, kwargs))
    if "device" in kwargs:
        kwargs["device"] = CPU
    return tree_map_only(torch.Tensor, lambda t: same[id(t)] if id(t) in same else CudaTensor(t), func(*args, **kwargs))


def refuse_mixtures(func: Any, leaves: list[Any], tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError for operands on two devices, and for a generator of the host's."""
    if any(isinstance(leaf, torch.Generator) and leaf.device.type != "cuda" for leaf in leaves):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func}, {place()})")
    strangers = [t for t in tensors if not isinstance(t, CudaTensor) and t.dim() > 0]
    if strangers and func not in TAKES_BOTH:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu "
            f"({func}, of the host: {[tuple(t.shape) for t in strangers]}, {place()})"
        )


def watch_indexing(seen: Seen, func: Any, args: tuple[Any, ...]) -> None:
    """Indices of the host are copied, a mask makes the host wait, and a tensor of the host takes no device index."""
    indices = [index for index in args[1] if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        seen.wait(f"{func} by a mask")
    for index in indices:
        if not isinstance(index, CudaTensor):
            seen.copy(index, non_blocking=False)
    if not isinstance(args[0], CudaTensor):
        raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu) ({place()})")


def watch_copy(seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """target.copy_(source) between the devices."""
    target, source, *rest = args
    non_blocking = bool(kwargs.get("non_blocking") or (rest and rest[0]))
    if isinstance(target, CudaTensor) and not isinstance(source, CudaTensor):
        seen.copy(source, non_blocking)
    to_host = isinstance(source, CudaTensor) and not isinstance(target, CudaTensor)
    if to_host and not (non_blocking and seen.is_pinned(target)):
        seen.wait("copy_ to the host")


class Move(torch.autograd.Function):
    """A tensor to the other device; gradients go back."""

    @staticmethod
    def forward(ctx: Any, tensor: Any, to_cuda: bool) -> torch.Tensor:  # type: ignore[override]
        ctx.to_cuda = to_cuda
        return CudaTensor(tensor.detach().clone()) if to_cuda else tensor.host.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return (gradient.host if ctx.to_cuda else CudaTensor(gradient)), None


def move(seen: Seen, tensor: torch.Tensor, to_cuda: bool, non_blocking: bool) -> torch.Tensor:
    """`tensor` on the device or on the host. A non-blocking copy to the host is into pinned memory, as torch does it."""
    if to_cuda == isinstance(tensor, CudaTensor):
        return tensor
    if to_cuda:
        seen.copy(tensor, non_blocking)
    elif not non_blocking:
        seen.wait("to the host")
    moved: torch.Tensor = Move.apply(tensor, to_cuda)  # type: ignore[no-untyped-call]
    return moved if to_cuda or not non_blocking else seen.pin(moved)

"""Checkpoints to resume from: one safetensors file with weights, optimizer state and step (never a pickle)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from dhox.artefacts.files import write_bytes
from dhox.artefacts.shards import History
from dhox.distill.students.student import unshared
from dhox.errors import DhoxError

CHECKPOINT_FILE = "checkpoint/checkpoint.safetensors"


def save_checkpoint(run: Path, step: int, history: History, identity: str, model: nn.Module, optimizer: Any) -> None:
    """Write the state after `step` steps, whole or not at all.

    Nothing random needs saving: order, views and dropout are functions of (seed, step).
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    path = run / CHECKPOINT_FILE
    path.parent.mkdir(exist_ok=True)
    metadata = {"step": str(step), "history": msgspec.json.encode(history).decode(), "identity": identity}
    write_bytes(path, save(_on_host(tensors), metadata))


def _on_host(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the host, which waits for the device once."""
    copies = {name: tensor.detach().to("cpu", non_blocking=True) for name, tensor in tensors.items()}
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.synchronize()
    return unshared({name: copy.contiguous() for name, copy in copies.items()})


def load_checkpoint(run: Path, identity: str, model: nn.Module, optimizer: Any) -> tuple[int, History]:
    """Restore model and optimizer in place; (step, history), of no epoch where there is no checkpoint.

    `identity`: of the images and sizes of this training. Raises DhoxError for a checkpoint of another one.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        return 0, History()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        step, history = int(metadata["step"]), msgspec.json.decode(metadata["history"], type=History)
        model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, field = name.split(".", 2)
                state.setdefault(int(number), {})[field] = tensor
        for number, parameter in enumerate(model.parameters()):  # fused AdamW needs the strides of its parameter
            for name, tensor in state.get(number, {}).items():  # none of one that never had a gradient
                if tensor.shape == parameter.shape and name != "step":
                    state[number][name] = torch.empty_like(parameter).copy_(tensor)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        found = metadata["identity"]
    except Exception as err:
        reason = " ".join(str(err).split())[:200]
        raise DhoxError(
            f"{path} is not a checkpoint of this training ({reason}).", "Train again without --resume."
        ) from err
    if found != identity:
        raise DhoxError(
            f"{path} is of a training on other images: DATA, or a file given with it, has changed since.",
            "Start again without --resume.",
        )
    return step, history

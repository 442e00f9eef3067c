"""Training by one process or by many (torchrun): the device, the ranks, and results gathered from all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from dhox.artefacts.files import output_directory, partial_directory
from dhox.errors import DhoxError

PRECISIONS = {"cpu": ("32-true", "bf16-mixed"), "cuda": ("bf16-mixed", "32-true")}  # first: default


def create_fabric(device: str, precision: str | None) -> tuple[Fabric, str]:
    """The device of this process, and the precision on it; joins the other processes where torchrun started some.

    Raises DhoxError where CUDA is asked for and not there, and for a precision that the device does not have.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DhoxError("--device cuda: torch finds no CUDA device here.", "Use --device cpu, or run `dhox doctor`.")
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    precision = precision or PRECISIONS[accelerator][0]
    if precision not in PRECISIONS[accelerator]:
        raise DhoxError(
            f"--precision {precision} is nothing for {accelerator}.",
            f"Use one of: {', '.join(PRECISIONS[accelerator])}.",
        )
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if accelerator == "cuda" and local > torch.cuda.device_count():
        raise DhoxError(
            f"{local} processes on this machine, and {torch.cuda.device_count()} GPUs.",
            f"Start one process per GPU: torchrun --nproc-per-node {torch.cuda.device_count()}.",
        )
    # A process may wait long for the first one, which looks at every image alone.
    strategy: Any = DDPStrategy(timeout=timedelta(hours=12)) if world > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator, strategy=strategy, devices=local, num_nodes=world // local, precision=precision
    )
    if world > 1 and "LT_CLI_USED" not in os.environ:  # `fabric run` has launched already
        fabric.launch()
    return fabric, precision


def per_process(name: str, size: int, n: int, world: int) -> int:
    """The global batch that training uses of `n` images: at most one pass, and a multiple of the processes."""
    if size % world:
        raise DhoxError(f"{name} {size} cannot be dealt out over {world} processes.", f"Choose a multiple of {world}.")
    return -(-min(size, n) // world) * world


def gather_rows(fabric: Fabric, mine: np.ndarray, n: int) -> np.ndarray:
    """Rows that the processes computed of items[rank::world], put together: [n, ...] in item order, exact."""
    if fabric.world_size == 1:
        return mine
    most = -(-n // fabric.world_size)
    padded = np.zeros((most, *mine.shape[1:]), mine.dtype)
    padded[: len(mine)] = mine
    part = fabric.to_device(torch.from_numpy(padded))
    parts = part.new_empty((fabric.world_size * most, *part.shape[1:]))
    torch.distributed.all_gather_into_tensor(parts, part)
    by_rank = parts.unflatten(0, (fabric.world_size, most))
    return by_rank.transpose(0, 1).flatten(0, 1)[:n].cpu().numpy()


def share_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Give every process the first one's buffers (BatchNorm's running statistics), so that all evaluate one model."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


@contextmanager
def told_of_lost_processes() -> Iterator[None]:
    """Turn the failure of a collective, which follows when another process died, into a message that says so."""
    try:
        yield
    except RuntimeError as err:
        text, world = str(err), int(os.environ.get("WORLD_SIZE", "1"))
        signs = ("Connection closed by peer", "Connection reset by peer", "Socket", "NCCL", "Broken pipe", "gloo")
        if world == 1 or isinstance(err, torch.OutOfMemoryError) or not any(sign in text for sign in signs):
            raise
        raise DhoxError(
            f"Another of the {world} processes stopped ({' '.join(text.split())[:160]}).",
            "Its own message says why; mend that, and run the same command again (dhox distill with --resume).",
        ) from err


@contextmanager
def first_then_all(fabric: Fabric) -> Iterator[None]:
    """The first process runs the block before the others do."""
    if not fabric.is_global_zero:
        fabric.barrier()
    yield
    if fabric.is_global_zero:
        fabric.barrier()


@contextmanager
def shared_output(
    fabric: Fabric, out: Path, file_name: str, schema: str, overwrite: bool, resume: bool
) -> Iterator[Path]:
    """`output_directory` for many processes: the first makes it and puts it in place, all work in it."""
    if fabric.is_global_zero:
        with output_directory(out, file_name, schema, overwrite, resume=resume) as folder:
            fabric.barrier()
            yield folder
            fabric.barrier()
    else:
        fabric.barrier()
        yield partial_directory(out)
        fabric.barrier()


def leave() -> None:
    """Part from the other processes, where there were any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

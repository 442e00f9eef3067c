"""Rows of equal shape, found by key, in a directory of checksummed files: the teacher cache and the packed images.

A directory holds `shards.json` (what the rows are) and files `KEYHASH.safetensors` of many rows each, which say the
same: a file that was moved here from another directory is found, and a lost shards.json is made again. A file is
written whole or not at all, so a kill costs at most the file in work; new keys are appended as new files; several
processes fill one directory by writing different files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.numpy import save

from dhox.artefacts.files import make_folder, write_bytes
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.shards import KEY_BYTES, SHARDS_FILE, Recipe, RowKind, RowType, ShardHeader, Shards
from dhox.data.dataset import shorten
from dhox.distill.images.threads import in_threads
from dhox.distill.processes import first_then_all
from dhox.errors import DhoxError, dhox_command

LEFT_BEHIND_SECONDS = 3600  # a temporary file as old as this is no longer being written
CHECKSUMS_UP_TO = 16 << 30  # bytes that are read whole when rows are opened; beyond, `dhox cache --verify` does it
ROW_FILE = re.compile(r"[0-9a-f]{24}\.safetensors")
MOST_ROWS, MOST_BYTES = 1024, 64 << 20  # of one file
MOST_MAPS = 16_384  # files that are mapped at a time; Linux allows a process 65,530 maps
KEY = np.dtype(f"S{KEY_BYTES}")


@dataclass(frozen=True, eq=False)
class Shard:
    """One file: its keys KEY [n] in row order, where its rows begin, and its header without the keys."""

    path: Path
    keys: np.ndarray
    offset: int
    header: ShardHeader


@dataclass(frozen=True, eq=False)
class Rows:
    """Chosen rows of one shape and type: row i is `array(file[i])[place[i]]`.

    `array`: the rows of a file by its number, [n, *row_shape]; it may be called by several threads.
    """

    array: Callable[[int], np.ndarray]
    file: np.ndarray
    place: np.ndarray
    row_shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def __len__(self) -> int:
        return len(self.file)

    def take(self, numbers: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy the rows `numbers` [B] into `out` [B, *row_shape]."""
        for i, (file, place) in enumerate(zip(self.file[numbers].tolist(), self.place[numbers].tolist(), strict=True)):
            out[i] = self.array(file)[place]
        return out

    def take_part(self, numbers: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Part `parts[i]` of row `numbers[i]`: [B, *row_shape[1:]]."""
        out = np.empty((len(numbers), *self.row_shape[1:]), self.dtype)
        places = zip(self.file[numbers].tolist(), self.place[numbers].tolist(), parts.tolist(), strict=True)
        for i, (file, place, part) in enumerate(places):
            out[i] = self.array(file)[place, part]
        return out


def row_files(folder: Path) -> list[Path]:
    """The files of rows in a directory, by their names: any other file is left alone."""
    return sorted(path for path in folder.glob("*.safetensors") if ROW_FILE.fullmatch(path.name))


def row_keys(names: Iterable[str], contents: Iterable[str]) -> np.ndarray:
    """The keys of images, KEY [N]: hashes of their names and content hashes."""
    pairs = zip(names, contents, strict=True)
    hashes = (hashlib.blake2b(f"{name}\0{content}".encode(), digest_size=KEY_BYTES) for name, content in pairs)
    return np.fromiter((one.digest() for one in hashes), KEY)


def prepare(
    folder: Path, recipe: Recipe, row_shape: Sequence[int], dtype: RowType, about: dict[str, str] | None = None
) -> None:
    """Create the directory, or check that it holds rows of this recipe. Raises DhoxError where it holds others.

    `about`: kept for readers, never compared.
    """
    wanted = Shards(about=about or {}, recipe=recipe, row_shape=list(row_shape), dtype=dtype, files={})
    path = folder / SHARDS_FILE
    if not path.exists():
        make_folder(folder, "Choose another --cache.")
        write_record(path, wanted)
        return
    other = wanted.differences(read_header(folder))
    if other:
        raise DhoxError(
            f"{folder} was written by another teacher or recipe ({'; '.join(other)}).",
            "Choose another --cache, or train with the settings that wrote it.",
        )


def read_header(folder: Path) -> Shards:
    """What the rows of a directory are. Raises DhoxError where shards.json is damaged."""
    try:
        return read_record(folder / SHARDS_FILE, Shards)
    except DhoxError as err:
        fix = f"`{dhox_command('cache', '--repair', folder)}` makes it again from the files beside it."
        raise DhoxError(err.reason, fix) from err


def read_shards(folder: Path, *, checksums: bool) -> list[Shard]:
    """Every file of the directory, with its keys.

    Sizes are always checked, contents only with `checksums`. Raises DhoxError for damaged files and for files that
    shards.json lists and that are gone.
    """
    shards, damaged = examine(folder, checksums=checksums)
    refuse_damaged(folder, damaged)
    return shards


def refuse_damaged(folder: Path, damaged: dict[str, str]) -> None:
    """Raise DhoxError where some files of a directory are damaged; `damaged`: file -> reason."""
    if damaged:
        raise DhoxError(
            f"{folder} is damaged: {shorten([f'{name} ({reason})' for name, reason in sorted(damaged.items())], 4)}.",
            f"`{dhox_command('cache', '--repair', folder)}` drops these files; their rows are then computed again.",
        )


def examine(folder: Path, *, checksums: bool) -> tuple[list[Shard], dict[str, str]]:
    """(whole files, damaged or missing file -> reason)."""
    header = read_header(folder)
    found = row_files(folder)
    damaged = {name: "missing" for name in header.files if not (folder / name).exists()}
    whole: list[Shard] = []
    for path, result in zip(found, in_threads(read_shard, found), strict=True):
        if isinstance(result, str):
            damaged[path.name] = result
        elif other := header.differences(result.header):
            damaged[path.name] = f"of another teacher or recipe: {'; '.join(other)}"
        else:
            whole.append(result)
    if checksums:
        damaged |= changed_files(whole)
    return [shard for shard in whole if shard.path.name not in damaged], damaged


def read_shard(path: Path) -> Shard | str:
    """One file, or what is wrong with its header or its size."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            metadata = msgspec.json.decode(header["__metadata__"]["dhox"], type=ShardHeader)
        except (ValueError, KeyError, TypeError, RecursionError):
            return "no header"
        keys = np.frombuffer(bytes.fromhex(metadata.keys), KEY)
        shard = Shard(path, keys, 8 + length, msgspec.structs.replace(metadata, keys=""))
        row_bytes = prod(metadata.row_shape) * np.dtype(metadata.dtype).itemsize
        if path.stat().st_size != shard.offset + len(shard.keys) * row_bytes:
            return "truncated"
    return shard


def changed_files(shards: list[Shard]) -> dict[str, str]:
    """The files whose rows are no longer what their headers say, with the reason; every byte is read."""

    def as_written(shard: Shard) -> bool:
        digest = hashlib.sha256()
        with shard.path.open("rb") as file:
            file.seek(shard.offset)
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest() == shard.header.sha256

    results = zip(shards, in_threads(as_written, shards), strict=True)
    return {shard.path.name: "its checksum differs" for shard, same in results if not same}


def find(keys: np.ndarray, shards: list[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """(number of the file, row in it) of each key KEY [N], int32 [N] each; the file is -1 where none holds the key."""
    known = np.concatenate([np.empty(0, KEY), *(shard.keys for shard in shards)])
    if not len(known):
        return np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
    starts = np.cumsum([0, *(len(shard.keys) for shard in shards)])
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    file = np.searchsorted(starts, at, side="right") - 1
    return np.where(known[at] == keys, file, -1).astype(np.int32), (at - starts[file]).astype(np.int32)


def open_rows(folder: Path, keys: np.ndarray) -> Rows:
    """The rows of `keys` KEY [N], in their order, memory-mapped when they are used.

    Every key must be there. Damaged files are refused: sizes are checked of all, checksums of those that hold a key,
    where these have at most CHECKSUMS_UP_TO bytes.
    """
    shards, header = read_shards(folder, checksums=False), read_header(folder)
    file, place = find(keys, shards)
    lost = int((file < 0).sum())
    if lost:
        raise DhoxError(
            f"{folder} lacks {lost} of {len(keys)} rows that were just written: another command changes it at the same "
            "time.",
            "Run the command again.",
        )
    numbers, file = np.unique(file, return_inverse=True)
    used = [shards[number] for number in numbers]
    if sum(shard.path.stat().st_size for shard in used) <= CHECKSUMS_UP_TO:
        refuse_damaged(folder, changed_files(used))
    dtype, shape = np.dtype(header.dtype), tuple(header.row_shape)
    files = [(shard.path, shard.offset, len(shard.keys)) for shard in used]

    @lru_cache(MOST_MAPS)
    def array(number: int) -> np.ndarray:
        path, offset, n = files[number]
        return map_rows(path, offset, (n, *shape), dtype)

    return Rows(array, file.astype(np.int32), place, shape, dtype)


def map_rows(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    """The rows of a file, memory-mapped. Torch closes the file, where np.memmap keeps a descriptor for each.

    Raises DhoxError where the file is gone or shorter.
    """
    size = offset + prod(shape) * dtype.itemsize
    try:
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError as err:
        raise DhoxError(
            f"{path} cannot be mapped ({str(err).splitlines()[0]}): another command changes it at the same time.",
            "Run the command again.",
        ) from err
    return content[offset:].view(dtype).reshape(shape)


def rows_per_file(row_shape: Sequence[int], dtype: str) -> int:
    """How many rows a full file holds."""
    return max(1, min(MOST_ROWS, MOST_BYTES // (int(np.prod(row_shape)) * np.dtype(dtype).itemsize)))


def missing_rows(keys: np.ndarray, shards: list[Shard]) -> np.ndarray:
    """The numbers of the keys KEY [N] that no file holds, every key once, int [M]."""
    missing = np.flatnonzero(find(keys, shards)[0] < 0)
    _, first = np.unique(keys[missing], return_index=True)
    return missing[np.sort(first)]


def share_of(missing: np.ndarray, per_file: int, rank: int, world: int) -> np.ndarray:
    """What one process is to compute of the missing rows: whole files, dealt out over the processes."""
    return missing[np.arange(len(missing)) // per_file % world == rank]


def write_rows(
    folder: Path, keys: np.ndarray, batches: Iterable[np.ndarray], per_file: int, advance: Callable[[int], None]
) -> None:
    """Write rows that come in batches [b, *row_shape], in the order of `keys`, as files of `per_file` rows.

    Files are written by a thread of their own while the next rows are computed.
    """
    what = read_header(folder)
    with ThreadPoolExecutor(1) as pool:
        done, held, n_held = 0, [], 0
        writing: Future[None] | None = None
        for batch in batches:
            held.append(batch)
            n_held += len(batch)
            advance(len(batch))
            while n_held >= per_file or (n_held and done + n_held == len(keys)):
                rows = np.concatenate(held)
                file_rows, rest = rows[:per_file], rows[per_file:]
                if writing is not None:
                    writing.result()
                writing = pool.submit(_write_shard, folder, what, keys[done : done + len(file_rows)], file_rows)
                done += len(file_rows)
                held, n_held = [rest], len(rest)
        if writing is not None:
            writing.result()
    assert done == len(keys), f"{len(keys) - done} rows were never computed"


def _write_shard(folder: Path, what: RowKind, keys: np.ndarray, rows: np.ndarray) -> None:
    """Write one file; equal keys and rows give the same name and bytes."""
    rows = np.ascontiguousarray(rows)
    joined = keys.tobytes()
    # One entry: safetensors writes several in any order.
    header = ShardHeader(
        about=what.about, recipe=what.recipe, row_shape=what.row_shape, dtype=what.dtype, keys=joined.hex(),
        sha256=hashlib.sha256(rows.data).hexdigest(),
    )  # fmt: skip
    name = hashlib.blake2b(joined, digest_size=12).hexdigest()
    write_bytes(folder / f"{name}.safetensors", save({"rows": rows}, {"dhox": msgspec.json.encode(header).decode()}))


def list_files(folder: Path) -> None:
    """Record in shards.json which files are there, so that a later loss is noticed."""
    header = read_header(folder)
    shards, _ = examine(folder, checksums=False)
    for temporary in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > LEFT_BEHIND_SECONDS:
                temporary.unlink()
    files = {shard.path.name: len(shard.keys) for shard in shards}
    write_record(folder / SHARDS_FILE, msgspec.structs.replace(header, files=files))


def repair(folder: Path) -> dict[str, str]:
    """Drop damaged files and forget missing ones; returns what they were.

    A damaged shards.json is made again from the files: what most of their rows are, the others are dropped.
    """
    try:
        read_header(folder)
    except DhoxError:
        _write_header_again(folder)
    _, damaged = examine(folder, checksums=True)
    for name in damaged:
        (folder / name).unlink(missing_ok=True)
    list_files(folder)
    return damaged


def _write_header_again(folder: Path) -> None:
    """shards.json from the files beside it. Raises DhoxError where none of them can be read."""
    shards = [shard for path in row_files(folder) if isinstance(shard := read_shard(path), Shard)]
    if not shards:
        raise DhoxError(f"{folder} holds no file of rows that can be read.", "Delete the directory.")
    most = max((shard.header for shard in shards), key=lambda what: sum(
        len(shard.keys) for shard in shards if not what.differences(shard.header)
    ))  # fmt: skip
    again = Shards(about=most.about, recipe=most.recipe, row_shape=most.row_shape, dtype=most.dtype, files={})
    write_record(folder / SHARDS_FILE, again)


def filled_rows(fabric: Fabric, folder: Path, keys: np.ndarray) -> Rows:
    """The rows of `keys`, once every process has written its share."""
    fabric.barrier()
    with first_then_all(fabric):
        if fabric.is_global_zero:
            list_files(folder)
    return open_rows(folder, keys)

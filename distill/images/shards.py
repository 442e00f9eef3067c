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
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from lightning_fabric import Fabric
from safetensors.numpy import save

from dhox.artefacts.files import make_folder, write_bytes
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.shards import KEY_BYTES, SHARDS_FILE, Recipe, RowKind, RowType, ShardHeader, Shards
from dhox.data.dataset import shorten
from dhox.distill.processes import first_then_all
from dhox.errors import DhoxError, dhox_command

LEFT_BEHIND_SECONDS = 3600  # a temporary file as old as this is no longer being written
CHECKSUMS_UP_TO = 16 << 30  # bytes that are read whole when rows are opened; beyond, `dhox cache --verify` does it
ROW_FILE = re.compile(r"[0-9a-f]{24}\.safetensors")
MOST_ROWS, MOST_BYTES = 1024, 64 << 20  # of one file


@dataclass(frozen=True)
class Shard:
    """One file: its keys (bytes each) in row order, and where its rows begin."""

    path: Path
    keys: list[bytes]
    offset: int
    header: ShardHeader


@dataclass(frozen=True)
class Rows:
    """Chosen rows of a shard directory, memory-mapped: row i is `maps[file[i]][place[i]]`."""

    maps: list[np.ndarray]
    file: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.maps[0].shape[1:])

    def take(self, numbers: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy the rows `numbers` [B] into `out` [B, *row_shape]."""
        for i, (file, place) in enumerate(zip(self.file[numbers].tolist(), self.place[numbers].tolist(), strict=True)):
            out[i] = self.maps[file][place]
        return out

    def take_part(self, numbers: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Part `parts[i]` of row `numbers[i]`: [B, *row_shape[1:]]."""
        out = np.empty((len(numbers), *self.row_shape[1:]), self.maps[0].dtype)
        places = zip(self.file[numbers].tolist(), self.place[numbers].tolist(), parts.tolist(), strict=True)
        for i, (file, place, part) in enumerate(places):
            out[i] = self.maps[file][place, part]
        return out


def row_files(folder: Path) -> list[Path]:
    """The files of rows in a directory, by their names: any other file is left alone."""
    return sorted(path for path in folder.glob("*.safetensors") if ROW_FILE.fullmatch(path.name))


def row_key(name: str, content: str) -> bytes:
    """The key of an image: a hash of its name and its content hash."""
    return hashlib.blake2b(f"{name}\0{content}".encode(), digest_size=KEY_BYTES).digest()


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
    if damaged:
        raise DhoxError(
            f"{folder} is damaged: {shorten([f'{name} ({reason})' for name, reason in sorted(damaged.items())], 4)}.",
            f"`{dhox_command('cache', '--repair', folder)}` drops these files; their rows are then computed again.",
        )
    return shards


def examine(folder: Path, *, checksums: bool) -> tuple[list[Shard], dict[str, str]]:
    """(whole files, damaged or missing file -> reason)."""
    header = read_header(folder)
    found = row_files(folder)
    damaged = {name: "missing" for name in header.files if not (folder / name).exists()}
    whole = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, result in zip(found, pool.map(lambda p: read_shard(p, checksums), found), strict=True):
            if isinstance(result, str):
                damaged[path.name] = result
            elif other := header.differences(result.header):
                damaged[path.name] = f"of another teacher or recipe: {'; '.join(other)}"
            else:
                whole.append(result)
    return whole, damaged


def read_shard(path: Path, checksums: bool) -> Shard | str:
    """One file, or what is wrong with it."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            metadata = msgspec.json.decode(header["__metadata__"]["dhox"], type=ShardHeader)
        except (ValueError, KeyError, TypeError, RecursionError):
            return "no header"
        shard = Shard(path, metadata.row_keys, 8 + length, metadata)
        row_bytes = prod(metadata.row_shape) * np.dtype(metadata.dtype).itemsize
        if path.stat().st_size != shard.offset + len(shard.keys) * row_bytes:
            return "truncated"
        if checksums:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
            if digest.hexdigest() != metadata.sha256:
                return "its checksum differs"
    return shard


def where(shards: list[Shard]) -> dict[bytes, tuple[int, int]]:
    """Key -> (file number, row in it)."""
    return {key: (number, row) for number, shard in enumerate(shards) for row, key in enumerate(shard.keys)}


def open_rows(folder: Path, keys: list[bytes]) -> Rows:
    """The rows of `keys`, in their order, memory-mapped. Every key must be there; damaged files are refused.

    Checksums are compared where the directory holds at most CHECKSUMS_UP_TO bytes, sizes always.
    """
    total = sum(path.stat().st_size for path in row_files(folder))
    shards = read_shards(folder, checksums=total <= CHECKSUMS_UP_TO)
    header = read_header(folder)
    dtype, shape = np.dtype(header.dtype), tuple(header.row_shape)
    places = where(shards)
    lost = sum(key not in places for key in keys)
    if lost:
        raise DhoxError(
            f"{folder} lacks {lost} of {len(keys)} rows that were just written: another command changes it at the same "
            "time.",
            "Run the command again.",
        )
    table = np.array([places[key] for key in keys], np.int64).reshape(-1, 2)
    maps = [np.memmap(s.path, dtype, "r", offset=s.offset, shape=(len(s.keys), *shape)) for s in shards]
    return Rows(list(maps), table[:, 0], table[:, 1])


def rows_per_file(row_shape: Sequence[int], dtype: str) -> int:
    """How many rows a full file holds."""
    return max(1, min(MOST_ROWS, MOST_BYTES // (int(np.prod(row_shape)) * np.dtype(dtype).itemsize)))


def missing_share(keys: list[bytes], shards: list[Shard], per_file: int, rank: int, world: int) -> list[int]:
    """The numbers of the keys that this process is to compute: whole files, dealt out over the processes."""
    there = where(shards)
    missing = list({key: number for number, key in enumerate(keys) if key not in there}.values())
    return [
        number
        for file in range(rank, -(-len(missing) // per_file), world)
        for number in missing[file * per_file : (file + 1) * per_file]
    ]


def write_rows(
    folder: Path, keys: list[bytes], batches: Iterable[np.ndarray], per_file: int, advance: Callable[[int], None]
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


def _write_shard(folder: Path, what: RowKind, keys: list[bytes], rows: np.ndarray) -> None:
    """Write one file; equal keys and rows give the same name and bytes."""
    rows = np.ascontiguousarray(rows)
    joined = b"".join(keys)
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
    shards = [shard for path in row_files(folder) if isinstance(shard := read_shard(path, False), Shard)]
    if not shards:
        raise DhoxError(f"{folder} holds no file of rows that can be read.", "Delete the directory.")
    most = max((shard.header for shard in shards), key=lambda what: sum(
        len(shard.keys) for shard in shards if not what.differences(shard.header)
    ))  # fmt: skip
    again = Shards(about=most.about, recipe=most.recipe, row_shape=most.row_shape, dtype=most.dtype, files={})
    write_record(folder / SHARDS_FILE, again)


def filled_rows(fabric: Fabric, folder: Path, keys: list[bytes]) -> Rows:
    """The rows of `keys`, once every process has written its share."""
    fabric.barrier()
    with first_then_all(fabric):
        if fabric.is_global_zero:
            list_files(folder)
    return open_rows(folder, keys)

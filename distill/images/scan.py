"""One parallel pass over every image file: content hash, size in pixels, and whether it decodes; remembered."""

from __future__ import annotations

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dhox.artefacts.files import make_folder, stable_hash, write_bytes
from dhox.artefacts.shards import ScanMemory
from dhox.console import progress_bar
from dhox.data.dataset import Item, Splits, data_address, image_bytes, shorten
from dhox.data.images import UnreadableImageError, decode
from dhox.data.items import digest
from dhox.errors import DhoxError

SAVE_SECONDS = 30.0  # what a killed pass loses at most


@dataclass(frozen=True)
class Seen:
    """What one image file is: its content hash and its upright size in pixels; `reason`: why it cannot be read."""

    content: str
    width: int
    height: int
    reason: str | None = None


def see(item: Item) -> Seen:
    """Read, hash and decode one image."""
    content = b""
    try:
        content = image_bytes(item)
        width, height = decode(io.BytesIO(content), item.name).size
    except UnreadableImageError as err:
        return Seen(digest(content), 0, 0, err.why)
    except OSError as err:
        return Seen("", 0, 0, err.strerror or str(err))
    return Seen(digest(content), width, height)


def stamp(item: Item) -> str:
    """What changes when the file of an image is another: size, inode, times, and its place in an archive."""
    try:
        status = item.path.stat()
    except OSError:
        return "missing"
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return f"{status.st_size}-{status.st_ino}-{times}-{item.span}-{item.row if item.column else None}"


def scan(splits: Splits, skip_bad_images: bool, memory: Path | None = None) -> tuple[Splits, dict[str, Seen]]:
    """Look at every image: (splits without bad images, name -> what it is, the bad ones included).

    `memory`: a JSON file of earlier results; a file that was readable and is the same since is not read again. Raises
    DhoxError that names and counts the bad images, unless `skip_bad_images`.
    """
    items = [item for split in splits.values() for item in split]
    known = _read_memory(memory)
    stamps = {item.name: stamp(item) for item in items}
    seen = {name: known[name][1] for name in stamps if name in known and known[name][0] == stamps[name]}
    unseen = [item for item in items if item.name not in seen]
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("Checking images", len(items)) as advance:
        advance(len(seen))
        saved = time.monotonic()
        for item, result in zip(unseen, pool.map(see, unseen), strict=True):
            seen[item.name] = result
            advance(1)
            if time.monotonic() - saved > SAVE_SECONDS:
                _write_memory(memory, stamps, seen)
                saved = time.monotonic()
    if unseen or known.keys() - seen.keys():
        _write_memory(memory, stamps, seen)
    bad = {name: result.reason for name, result in seen.items() if result.reason is not None}
    if bad and not skip_bad_images:
        raise DhoxError(
            f"{len(bad)} of {len(items)} images cannot be read: "
            f"{shorten([f'{name} ({reason})' for name, reason in sorted(bad.items())])}.",
            "Replace or remove them, or add --skip-bad-images to continue without them.",
        )
    good = {split: [item for item in of_split if item.name not in bad] for split, of_split in splits.items()}
    return good, seen


def _read_memory(memory: Path | None) -> dict[str, tuple[str, Seen]]:
    """Name -> (stamp, what it is) of an earlier pass; empty where there was none or its file is damaged."""
    try:
        content = msgspec.json.decode(memory.read_bytes(), type=ScanMemory) if memory else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: (row[0], Seen(row[1], row[2], row[3])) for name, row in content.items()}


def _write_memory(memory: Path | None, stamps: dict[str, str], seen: dict[str, Seen]) -> None:
    """Keep the results for the next pass."""
    if memory is None:
        return
    make_folder(memory.parent, "Choose another --cache.")
    rows = {name: (stamps[name], s.content, s.width, s.height) for name, s in seen.items() if s.reason is None}
    write_bytes(memory, msgspec.json.encode(rows))


def scan_memory(root: Path, data: Path) -> Path:
    """Where the results for DATA are kept, below the root of all caches."""
    return root / f"scan-{stable_hash(data_address(data)):016x}.json"

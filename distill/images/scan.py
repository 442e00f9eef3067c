"""One parallel pass over every image file: content hash, size in pixels, and whether it decodes; remembered."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dhox.artefacts.files import append_bytes, make_folder, stable_hash, write_bytes
from dhox.artefacts.shards import ScanRow
from dhox.data.dataset import Item, Splits, data_address, image_bytes, shorten
from dhox.data.images import UnreadableImageError, decode
from dhox.distill.images.threads import in_threads
from dhox.errors import DhoxError
from dhox.progress import progress_bar
from dhox.system.regular_file import regular

SAVE_SECONDS = 30.0  # what a killed pass loses at most
Memory = Path | None  # see scan_memory


@dataclass(frozen=True, slots=True)
class Seen:
    """What one image file is: its SHA-256 and its upright size in pixels; `reason`: why it cannot be read.

    `content` is empty where no byte could be read.
    """

    content: bytes
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
        return Seen(hashlib.sha256(content).digest(), 0, 0, err.why)
    except OSError as err:
        return Seen(b"", 0, 0, err.strerror or str(err))
    return Seen(hashlib.sha256(content).digest(), width, height)


def stamp(item: Item) -> bytes:
    """8 bytes that change when the file of an image is another: of its size, inode, times and place in an archive."""
    try:
        status = os.stat(item.file)  # noqa: PTH116 - of millions of texts no Path is made
    except OSError:
        return bytes(8)
    parts = status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, item.span
    text = f"{parts} {item.row if item.column else None}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def scan(splits: Splits, skip_bad_images: bool, memory: Memory = None) -> tuple[Splits, dict[str, Seen]]:
    """Look at every image: (splits without bad images, name -> what it is, the bad ones included).

    `memory`: a file of earlier results; a file that was readable and is the same since is not read again. Raises
    DhoxError that names and counts the bad images, unless `skip_bad_images`.
    """
    items = [item for split in splits.values() for item in split]
    seen, n_lines = _remembered(memory, items)
    unseen = [item for item in items if item.name not in seen]
    fresh: list[bytes] = []
    with progress_bar("Checking images", len(items)) as advance:
        advance(len(seen))
        saved = time.monotonic()
        for item, (before, one) in zip(unseen, in_threads(lambda item: (stamp(item), see(item)), unseen), strict=True):
            seen[item.name] = one
            advance(1)
            if one.reason is None:
                n_lines += 1
                fresh.append(msgspec.json.encode((item.name, before, one.content, one.width, one.height)))
            if time.monotonic() - saved > SAVE_SECONDS:
                _add_lines(memory, fresh)
                fresh, saved = [], time.monotonic()
    _add_lines(memory, fresh)
    bad = {name: result.reason for name, result in seen.items() if result.reason is not None}
    if memory is not None and n_lines > 2 * (len(seen) - len(bad)):
        _compact(memory, seen)
    if bad and not skip_bad_images:
        raise DhoxError(
            f"{len(bad)} of {len(items)} images cannot be read: "
            f"{shorten([f'{name} ({reason})' for name, reason in sorted(bad.items())])}.",
            "Replace or remove them, or add --skip-bad-images to continue without them.",
        )
    good = {split: [item for item in of_split if item.name not in bad] for split, of_split in splits.items()}
    return good, seen


def scan_memory(root: Path, data: Path) -> Path:
    """Where the results for DATA are kept, below the root of all caches: a line per image, the last of a name counts.

    Several commands may append to it. A line that a kill tore, and one of a file that is another now, says nothing.
    """
    return root / f"scan-{stable_hash(data_address(data)):016x}.jsonl"


def _remembered(memory: Memory, items: list[Item]) -> tuple[dict[str, Seen], int]:
    """(name -> what an earlier pass saw of the files that are the same since, how many lines it left)."""
    by_name = {item.name: item for item in items}
    seen: dict[str, Seen] = {}
    n_lines = 0
    for _, row in _rows(memory):
        n_lines += 1
        item = by_name.get(row[0]) if row else None
        if row and item and row[1] == stamp(item):
            seen[item.name] = Seen(*row[2:])
    return seen, n_lines


def _rows(memory: Memory) -> Iterator[tuple[bytes, ScanRow | None]]:
    """Each line of the file and what it says; None where it is damaged. Nothing where the file cannot be read."""
    if memory is None:
        return
    decoder = msgspec.json.Decoder(ScanRow)
    try:
        with regular(memory).open("rb") as file:
            for line in filter(None, map(bytes.strip, file)):
                try:
                    yield line, decoder.decode(line)
                except (ValueError, RecursionError):
                    yield line, None
    except OSError:
        return


def _add_lines(memory: Memory, lines: list[bytes]) -> None:
    """Append to the file; the first line begins anew where a kill tore the last one."""
    if memory is not None and lines:
        make_folder(memory.parent, "Choose another --cache.")
        append_bytes(memory, b"\n" + b"\n".join(lines) + b"\n")


def _compact(memory: Path, seen: dict[str, Seen]) -> None:
    """Keep the last line of each image alone. What another command appends meanwhile is looked at again."""
    last = {row[0]: line for line, row in _rows(memory) if row and row[0] in seen}
    write_bytes(memory, b"\n".join(last.values()) + b"\n")

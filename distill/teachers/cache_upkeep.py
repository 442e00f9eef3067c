"""`dhox cache`: filling teacher caches and packed images ahead of any training, and looking after them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhox.artefacts.shards import SHARDS_FILE
from dhox.distill.images.listing import list_images, look
from dhox.distill.images.packed import packed_rows
from dhox.distill.images.shards import examine, read_header, repair, row_files
from dhox.distill.options import worker_count
from dhox.distill.processes import create_fabric, first_then_all
from dhox.distill.small_options import CacheOptions
from dhox.distill.teachers.cache import WHOLE
from dhox.distill.teachers.embeddings import CachedTeacher
from dhox.distill.teachers.teacher import load_teacher
from dhox.errors import DhoxError
from dhox.progress import working


@dataclass(frozen=True)
class CacheEntry:
    """One cache directory. `damaged`: file -> what is wrong; contents are compared only where asked."""

    folder: Path
    rows: str
    images: int
    bytes: int
    shape: list[int]
    about: dict[str, str]
    damaged: dict[str, str]


def fill(data: Path, root: Path, options: CacheOptions) -> list[CacheEntry]:
    """Embed every image of DATA (`views` views of train and unlabelled, whole images of val and test), and pack the
    training images where `packed_size` is not 0. What the caches hold already is not computed again.
    """
    content, workers = options.content, worker_count(options.machine.workers)
    fabric, _ = create_fabric(options.machine.device, None)
    listing = list_images(data)
    with working("Loading the teacher"):
        teacher = load_teacher(content.teacher, fabric.device)
    with first_then_all(fabric):
        images = look(listing, skip_bad_images=content.skip_bad_images, cache=root)
    splits = images.splits
    training, whole = splits["train"] + splits["unlabelled"], splits["val"] + splits["test"]
    cached = CachedTeacher.of(teacher, root, images, content.view_seed, workers, fabric)
    cached.views(training, content.views)
    if whole:
        cached.views(whole, WHOLE)
    if content.packed_size:
        packed_rows(fabric, root, training, images.keys(training), content.packed_size)
    return entries(root, checksums=False)


def entries(root: Path, *, checksums: bool) -> list[CacheEntry]:
    """Every cache directory at or below `root`. Raises DhoxError where there is none."""
    return [_entry(folder, checksums) for folder in _folders(root)]


def _folders(root: Path) -> list[Path]:
    """The cache directories at or below `root`; one whose shards.json is lost still has its files of rows."""
    found = [folder for folder in (root, *root.glob("*/")) if (folder / SHARDS_FILE).exists() or row_files(folder)]
    if not found:
        raise DhoxError(f"{root} holds no teacher cache and no packed images.", "Give the --cache of a training.")
    return sorted(found)


def _entry(folder: Path, checksums: bool) -> CacheEntry:
    size = sum(path.stat().st_size for path in row_files(folder))
    try:
        header = read_header(folder)
    except DhoxError as err:
        return CacheEntry(folder, "unknown", 0, size, [], {}, {SHARDS_FILE: err.reason})
    whole, damaged = examine(folder, checksums=checksums)
    images = len(np.unique(np.concatenate([shard.keys for shard in whole]))) if whole else 0
    return CacheEntry(folder, header.rows, images, size, header.row_shape, header.about, damaged)


def repair_all(root: Path) -> list[CacheEntry]:
    """Drop the damaged files of every cache directory; their rows are computed again when they are needed."""
    for folder in _folders(root):
        repair(folder)
    return entries(root, checksums=False)

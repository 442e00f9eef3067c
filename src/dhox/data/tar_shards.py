"""DATA as WebDataset shards: uncompressed .tar files whose members of one key make a sample."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from dhox.data.folder import image_files
from dhox.data.images import SUFFIXES
from dhox.data.items import SPLITS, Item, Splits, label_of_number, shorten
from dhox.data.split_names import split_folders, split_of
from dhox.errors import DhoxError

ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABEL_PARTS = ("cls", "json", "txt")  # what may hold a sample's label; the first that there is does


def shard_files(root: Path) -> dict[str, list[Path]]:
    """The shards of each split: `train/*.tar` and so on, or `train-*.tar` and so on beside each other; none: no shards.

    Splits go by any name of `split_names`. Compressed archives are listed too (`read_shard` refuses them and says why).
    """
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for split, folder in split_folders(root).items():
        found[split] += filter(_is_archive, folder.iterdir())
    for path in filter(_is_archive, root.iterdir()):
        meant = split_of(path.name.split("-")[0]) if "-" in path.name else None
        if meant is not None:
            found[meant].append(path)
    return {split: sorted(paths) for split, paths in found.items()}


def _is_archive(path: Path) -> bool:
    return path.name.endswith(ARCHIVES) and not path.name.startswith(".") and path.is_file()


def read_shards(root: Path, wanted: tuple[str, ...] = SPLITS, labels: list[str] | None = None) -> Splits:
    """Index the shards of the wanted splits; names are SPLIT/SHARD/KEY.EXT, images stay in their archive.

    `labels`: the class list in index order, for labels that are numbers. Raises DhoxError for archives that are
    compressed, truncated or no archive, for contradictory samples, and for image files beside the shards.
    """
    splits: Splits = {split: [] for split in SPLITS}
    for split, folder in split_folders(root).items():
        loose = next(image_files(folder), None) if split in wanted else None
        if loose:
            raise DhoxError(
                f"{root} holds shards (.tar) and image files, such as {loose[0]}.",
                "Keep one kind: move the others away.",
            )
    for split, shards in shard_files(root).items():
        if split in wanted:
            splits[split] = [item for shard in shards for item in read_shard(shard, split, labels)]
    return splits


def read_shard(shard: Path, split: str, labels: list[str] | None = None) -> list[Item]:
    """The samples of one shard, without their labels in `unlabelled`; unlabelled ones of `train` have None."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    items, file = [], str(shard)
    with shard.open("rb") as content:
        for name, offset, size in members(shard):
            folder, _, base = name.rpartition("/")
            stem, _, part = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            parts = samples.setdefault(key, {})
            if part in parts:
                raise DhoxError(f"{shard} holds {name} twice.", "Write the shard again, with one key for each sample.")
            parts[part] = (offset, size)
        for key, parts in samples.items():
            images = [part for part in parts if f".{part.lower()}" in SUFFIXES]
            if not images:
                continue
            where = f"{shard}, sample {key}"
            if len(images) > 1:
                raise DhoxError(f"{where} has several images ({shorten(images)}).", "Keep one image in each sample.")
            texts = {}
            for part in LABEL_PARTS:
                if part in parts:
                    content.seek(parts[part][0])
                    texts[part] = content.read(parts[part][1])
            label, group = _label_and_group(texts, labels, where)
            if label is None and split in {"val", "test"}:
                raise DhoxError(
                    f"{where}: an image of {split} needs a label (KEY.cls, KEY.txt or KEY.json).", "Add it."
                )
            name = f"{split}/{shard.name.removesuffix('.tar')}/{key}.{images[0]}"
            items.append(Item(file, name, None if split == "unlabelled" else label, group, span=parts[images[0]]))
    return items


def members(shard: Path) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of every regular file of an uncompressed tar archive, in its order."""
    try:
        with tarfile.open(shard, "r:") as archive:
            found = [
                (member.name.removeprefix("./"), member.offset_data, member.size)
                for member in archive
                if member.isreg() and member.sparse is None
            ]
            end = archive.offset  # where the mark of two zero blocks begins
    except tarfile.TarError as err:
        with shard.open("rb") as file:
            start = file.read(6)
        if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise DhoxError(
                f"{shard} is compressed, and a compressed archive has no random access.",
                "Unpack it to a plain .tar (images are compressed already).",
            ) from err
        raise DhoxError(f"{shard} is damaged, truncated or no tar archive ({err}).", "Write or copy it again.") from err
    if shard.stat().st_size < end + 512:
        raise DhoxError(f"{shard} is truncated: its end-of-archive mark is missing.", "Write or copy it again.")
    return found


def _label_and_group(texts: dict[str, bytes], labels: list[str] | None, where: str) -> tuple[str | None, str | None]:
    """Label and group of a sample from its .cls (number or label), .json ({"label", "group"}) and .txt (label)."""
    entry: dict[str, Any] = {}
    decoded = {}
    try:
        decoded = {part: text.decode("utf-8-sig").strip() for part, text in texts.items()}
        if "json" in decoded:
            entry = json.loads(decoded["json"])
    except ValueError as err:
        raise DhoxError(f"{where}: its label is not UTF-8 text or not JSON ({err}).", "Write it again.") from err
    if not isinstance(entry, dict):
        raise DhoxError(f'{where}: its .json is not an object like {{"label": ..., "group": ...}}.', "Write it again.")
    group = entry.get("group")
    label = decoded.get("cls") or entry.get("label", decoded.get("txt"))
    if label in (None, ""):
        text = None
    elif isinstance(label, int) or ("cls" in decoded and label.lstrip("-").isdecimal()):
        text = label_of_number(int(label), labels, where)
    else:
        text = str(label)
    return text and sys.intern(text), None if group in (None, "") else sys.intern(str(group))

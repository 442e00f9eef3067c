"""What a remote bench needs on the board: trees of files, each file known by the SHA-256 of its content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dhox.dataset import Item, data_exists, image_bytes, read_dataset
from dhox.errors import DhoxError
from dhox.exported import check_file, read_manifest
from dhox.files import EXPORT_FILE, read_json, sha256
from dhox.ledger import LEDGER_SCHEMA

Source = Path | bytes | Item
DATA_FILE = "data.csv"


@dataclass
class Shipment:
    """Trees (key -> relative path -> SHA-256), and for every SHA-256 its bytes and where they come from.

    A tree's key is a hash of what it holds, so that equal trees are one, and a changed file makes another.
    """

    trees: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add_tree(self, files: dict[str, Any], known: dict[str, str] | None = None) -> str:
        """Add files by relative path (a Source each; `known`: hashes that were computed already); the tree's key."""
        known = known or {}
        tree = {relative: self.add_file(source, known.get(relative)) for relative, source in files.items()}
        key = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]
        self.trees[key] = tree
        return key

    def add_file(self, source: Source, digest: str | None = None) -> str:
        """Add one file and answer with its SHA-256."""
        if isinstance(source, Path):
            digest, size = digest or sha256(source), source.stat().st_size
        else:
            content = source if isinstance(source, bytes) else read_item(source)
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
        self.sizes[digest] = size
        self.sources[digest] = source
        return digest

    def open(self, digest: str) -> IO[bytes]:
        """The content of one file."""
        source = self.sources[digest]
        if isinstance(source, Path):
            return source.open("rb")
        return io.BytesIO(source if isinstance(source, bytes) else image_bytes(source))


def read_item(item: Item) -> bytes:
    """The encoded image. Raises DhoxError."""
    try:
        return image_bytes(item)
    except OSError as err:
        raise DhoxError(f"{item.path} cannot be read ({err}). Mend it, or take it out of the data.") from err


def add_export(shipment: Shipment, export: Path) -> tuple[str, str]:
    """The export's own files, each of the hash that its manifest names; no engines. Answers (tree's key, path in it).

    The path keeps the last two names of the export's own path, from which readers take its name.
    """
    manifest = read_manifest(export)
    inside = "/".join(export.resolve().parts[1:][-2:])
    hashes = {**manifest["files"], **{entry["file"]: entry["sha256"] for entry in manifest["artefacts"]}}
    files = {f"{inside}/{name}": check_file(export, name, digest) for name, digest in hashes.items()}
    known = {f"{inside}/{name}": digest for name, digest in hashes.items()}
    return shipment.add_tree({**files, f"{inside}/{EXPORT_FILE}": export / EXPORT_FILE}, known), inside


def evaluation_items(exports: list[Path], data: Path | None) -> tuple[dict[str, list[Item]], str | None]:
    """The images that a bench of these exports reads, by split: the test split, and those of each export's ledger.

    Answers ({split: items}, None), or ({}, why there are none). `data`: else where the first export says.
    """
    manifests = [read_manifest(export) for export in exports]
    where = data or Path(manifests[0]["data"])
    if not data_exists(where):
        return {}, f"{where} is not on this machine"
    classes = [entry["name"] for entry in manifests[0]["classes"]]
    judges: set[str] = set()
    for export, manifest in zip(exports, manifests, strict=True):
        path = check_file(export, "ledger.json", manifest["files"]["ledger.json"])
        ledger = read_json(path, LEDGER_SCHEMA)
        judges |= set(ledger["names"]) if ledger["labels"] is not None else set()
    splits = read_dataset(where, None if judges else "test", labels=classes)
    skipped = {name for manifest in manifests for name in manifest["skipped"]}
    found = {
        split: [item for item in items if item.name not in skipped and (split == "test" or item.name in judges)]
        for split, items in splits.items()
    }
    return found, None


def add_images(shipment: Shipment, splits: dict[str, list[Item]]) -> str | None:
    """The images as files named by their content, with a manifest that gives them their names back; the tree's key.

    So no name of an image is ever a file name on the board. None where there are no images.
    """
    files: dict[str, Source] = {}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", "split", "group", "name"])
    for split, items in splits.items():
        for item in items:
            whole = item.span is None and item.column is None
            source: Source = item.path if whole else item
            try:
                digest = shipment.add_file(source)
            except OSError as err:
                raise DhoxError(f"{item.path} cannot be read ({err}). Mend it, or take it out of the data.") from err
            path = f"images/{digest}"
            # Two images of equal content keep their names, and share the file.
            files[path] = source
            writer.writerow([path, item.label or "", split, item.group or "", item.name])
    if not files:
        return None
    known = {path: path.partition("/")[2] for path in files}
    files[DATA_FILE] = text.getvalue().encode()
    return shipment.add_tree(files, {path: digest for path, digest in known.items() if isinstance(files[path], Path)})

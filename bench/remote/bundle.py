"""What a remote bench needs on the board: trees of files, each file known by the SHA-256 of its content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dhox.artefacts.contract import read_contract_file
from dhox.artefacts.files import EXPORT_FILE, sha256
from dhox.data.dataset import Item, image_bytes
from dhox.errors import DhoxError
from dhox.models.export_directory import check_file, read_manifest
from dhox.models.onnx_file import check_onnx

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

    def add_tree(self, files: Mapping[str, Source]) -> str:
        """Add files by relative path; the tree's key."""
        return self.add_hashes({relative: self.add_file(source) for relative, source in files.items()})

    def add_hashes(self, tree: dict[str, str]) -> str:
        """Add a tree of files that were added; its key."""
        key = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]
        self.trees[key] = tree
        return key

    def add_file(self, source: Source) -> str:
        """Add one file and answer with its SHA-256."""
        if isinstance(source, Path):
            digest, size = sha256(source), source.stat().st_size
        else:
            content = source if isinstance(source, bytes) else image_bytes(source)
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


def add_models(shipment: Shipment, paths: list[Path], contract: Path | None) -> tuple[dict[Path, str], str | None]:
    """The models to measure: where each path will lie below the board's trees, and where the contract will.

    An export comes with its own files, each of the hash that its manifest names, and without engines. A model of
    another tool comes with its weights, the contract and its class list. Raises DhoxError for a damaged export and for
    files that lie elsewhere than beside the model or the contract.
    """
    places: dict[Path, str] = {}
    folders: dict[Path, str] = {}
    agreed: str | None = None
    for path in paths:
        export = path if path.is_dir() else path.parent
        if (export / EXPORT_FILE).is_file():
            if export not in folders:
                folders[export] = add_alone(shipment, export_files(export), set(folders.values()))
            inside = f"{folders[export]}/{export_names(export)}"
            places[path] = inside if path.is_dir() else f"{inside}/{path.name}"
        else:
            assert contract is not None, "open_subjects refused it"
            outside = {path.name: path, **beside(path.parent, sorted(check_onnx(path).external))}
            folders[path] = add_alone(shipment, outside, set(folders.values()))
            places[path] = f"{folders[path]}/{path.name}"
    if contract is not None:
        agreement = {contract.name: contract, **beside(contract.parent, class_files(contract))}
        agreed = f"{shipment.add_tree(agreement)}/{contract.name}"
    return places, agreed


def add_alone(shipment: Shipment, files: dict[str, Path], taken: set[str]) -> str:
    """Add a tree whose folder no other model has, though its files be the same: its place stands for one path here."""
    folder = shipment.add_tree(files)
    number = 1
    while folder in taken:
        number += 1
        folder = f"{shipment.add_tree({f'{number}/{relative}': path for relative, path in files.items()})}/{number}"
    return folder


def export_names(export: Path) -> str:
    """The last two names of an export's path, from which it is named."""
    return "/".join(export.resolve().parts[1:][-2:])


def export_files(export: Path) -> dict[str, Path]:
    """One export directory below its names, each file checked against the manifest."""
    manifest, inside = read_manifest(export), export_names(export)
    hashes = {**manifest["files"], **{entry["file"]: entry["sha256"] for entry in manifest["artefacts"]}}
    files = {f"{inside}/{name}": check_file(export, name, digest) for name, digest in hashes.items()}
    return {**files, f"{inside}/{EXPORT_FILE}": export / EXPORT_FILE}


def class_files(contract: Path) -> list[str]:
    """The file that a contract names in place of a class list, if it names one."""
    classes = read_contract_file(contract).classes
    return [classes] if isinstance(classes, str) else []


def beside(folder: Path, names: list[str]) -> dict[str, Path]:
    """Files of a folder by their names. Raises DhoxError for one that lies elsewhere."""
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DhoxError(f"{name} lies outside {folder}, so it would not be found on the board.", "Put it there.")
    return {name: folder / name for name in names}


def add_images(shipment: Shipment, test: list[Item], judges: list[Item]) -> str | None:
    """Test images, and those of the ledgers, as files named by their content, with a manifest of their own names.

    So no name of an image is ever a file name on the board. Answers with the manifest's place below the board's trees,
    None without images. Raises DhoxError for an image that cannot be read.
    """
    files: dict[str, Source] = {}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", "split", "name"])
    for split, items in (("test", test), ("val", judges)):
        for item in items:
            source: Source = item.path if item.span is None and item.column is None else item
            try:
                digest = shipment.add_file(source)
            except OSError as err:
                raise DhoxError(f"{item.path} cannot be read ({err}).", "Mend it, or take it out of the data.") from err
            files[f"images/{digest}"] = source
            writer.writerow([f"images/{digest}", item.label or "", split if item.label else "unlabelled", item.name])
    if not files:
        return None
    tree = {path: path.partition("/")[2] for path in files}
    tree[DATA_FILE] = shipment.add_file(text.getvalue().encode())
    return f"{shipment.add_hashes(tree)}/{DATA_FILE}"

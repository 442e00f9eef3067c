"""What a remote bench needs on the board: folders of files, gathered here as links and named by what they hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.camera import CAMERA_FILE, FRAMES_FILE
from dhox.artefacts.contract import read_contract_file
from dhox.artefacts.files import EXPORT_FILE, sha256
from dhox.data.dataset import Item, image_bytes
from dhox.errors import DhoxError
from dhox.models.camera_files import camera_files
from dhox.models.export_directory import check_file, open_export
from dhox.models.onnx_file import check_onnx


@dataclass
class Bundle:
    """`folder`: holds trees/NAME/..., links to files or files. `files`: how many; `size` in bytes."""

    folder: Path
    files: int = 0
    size: int = 0

    def add_tree(self, files: Mapping[str, Path | bytes], of: str = "") -> str:
        """Add files by relative path. The tree's name is a hash of them and of `of`, so that another bench that runs
        there never sees one change.
        """
        hashes = {name: _content_hash(source) for name, source in files.items()}
        tree = digest(json.dumps([of, hashes], sort_keys=True).encode())[:32]
        for name, source in files.items():
            self.add_file(tree, name, source)
        return tree

    def add_file(self, tree: str, name: str, source: Path | bytes) -> None:
        """Add one file, unless it was added."""
        place = self.folder / "trees" / tree / name
        if place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            place.write_bytes(source)
        else:
            place.symlink_to(source.absolute())
        self.files, self.size = self.files + 1, self.size + place.stat().st_size

    @property
    def trees(self) -> list[str]:
        """The names of all trees."""
        return sorted(path.name for path in (self.folder / "trees").iterdir())


def digest(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _content_hash(source: Path | bytes) -> str:
    return sha256(source) if isinstance(source, Path) else digest(source)


def add_models(bundle: Bundle, paths: list[Path], contract: Path | None) -> dict[Path, str]:
    """The models to measure, and their contract: where each path will lie below the board's trees.

    An export comes with its own files, each of the hash that its manifest names, and without engines; a model of
    another tool with its weights, the contract with its class list. Every path has a tree of its own, since engines
    that are built there stay in it. Raises DhoxError for a damaged export and for files that lie elsewhere than beside
    the model or the contract.
    """
    places: dict[Path, str] = {}
    for path in paths:
        export = path if path.is_dir() else path.parent
        if (export / EXPORT_FILE).is_file():
            inside = "/".join(export.resolve().parts[1:][-2:])  # an export is named by its last two folders
            files = {f"{inside}/{name}": file for name, file in _export_files(export).items()}
            place = f"{bundle.add_tree(files, str(export.resolve()))}/{inside}"
            places[path] = place if path.is_dir() else f"{place}/{path.name}"
        else:
            outside = beside(path.parent, [path.name, *sorted(check_onnx(path).external)])
            places[path] = f"{bundle.add_tree(outside, str(path.resolve()))}/{path.name}"
    if contract is not None:
        agreement = beside(contract.parent, [contract.name, *_class_files(contract)])
        places[contract] = f"{bundle.add_tree(agreement)}/{contract.name}"
    return places


def _export_files(export: Path) -> dict[str, Path]:
    """The files of an export directory by name, each checked against the manifest."""
    manifest = open_export(export).manifest
    hashes = {**manifest.files, **{entry.file: entry.sha256 for entry in manifest.artefacts}}
    own = {name: check_file(export, name, one) for name, one in hashes.items()}
    return {**own, **_camera_parts(export), EXPORT_FILE: export / EXPORT_FILE}


def _camera_parts(export: Path) -> dict[str, Path]:
    """What a bench needs of every camera file of an export: model, sidecar and frames."""
    found = {}
    for one in camera_files(open_export(export)):
        for path in (one.onnx(), one.file(FRAMES_FILE), one.folder / CAMERA_FILE):
            found[f"cameras/{one.folder.name}/{path.name}"] = path
    return found


def _class_files(contract: Path) -> list[str]:
    """The file that a contract names in place of a class list, if it names one."""
    classes = read_contract_file(contract).classes
    return [classes] if isinstance(classes, str) else []


def beside(folder: Path, names: list[str]) -> dict[str, Path]:
    """Files of a folder by their names. Raises DhoxError for one that lies elsewhere."""
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DhoxError(f"{name} lies outside {folder}, so it would not be found on the board.", "Put it there.")
    return {name: folder / name for name in names}


def add_images(bundle: Bundle, data: str, test: list[Item], judges: list[Item]) -> str | None:
    """Test images, and those of the ledgers, as files named by their content, with a manifest of their own names.

    So no name of an image is ever a file name on the board, and benches on the same `data` share a tree. Answers with
    the manifest's place below the board's trees, None without images. Raises DhoxError for an image that cannot be
    read.
    """
    if not test and not judges:
        return None
    tree = digest(data.encode())[:32]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", "split", "name"])
    for split, items in (("test", test), ("val", judges)):
        for item in items:
            try:
                source = item.path if item.span is None and item.column is None else image_bytes(item)
                name = f"images/{_content_hash(source)}"
            except OSError as err:
                raise DhoxError(f"{item.path} cannot be read ({err}).", "Mend it, or take it out of the data.") from err
            bundle.add_file(tree, name, source)
            writer.writerow([name, item.label or "", split if item.label else "unlabelled", item.name])
    manifest = text.getvalue().encode()
    place = f"{digest(manifest)[:32]}.csv"
    bundle.add_file(tree, place, manifest)
    return f"{tree}/{place}"

"""An export directory, opened: its manifest, and its files, each held against the manifest when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.embeddings import EMBEDDING, EMBEDDINGS_FILE, Embeddings
from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, check_hash, partial_directory, settle
from dhox.artefacts.golden import GOLDEN_FILE, Golden
from dhox.artefacts.heads import HEADS_FILE, Heads
from dhox.artefacts.images import IMAGES_FILE, ImageHashes
from dhox.artefacts.ledger import LEDGER_FILE, Ledger
from dhox.artefacts.logits import VAL_FILE, Logits
from dhox.artefacts.manifest import Artefact, Manifest, model_metadata
from dhox.artefacts.record import check_schema, read_head, read_record
from dhox.artefacts.rehearsal import REHEARSAL_FILE, Rehearsal
from dhox.errors import DhoxError, not_there
from dhox.models.onnx_file import OnnxFile, check_onnx
from dhox.models.onnx_tensor import Tensor
from dhox.runtimes.tensors import Tensors, input_of

AGAIN = "Copy the directory again, or export again."


@dataclass(frozen=True)
class Export:
    """A finished export. Its methods read one file each, and raise DhoxError where it is not what the manifest says."""

    path: Path
    manifest: Manifest

    def entry(self, precision: str | None = None) -> Artefact:
        """The artefact of a precision, or the default one."""
        found = {entry.precision: entry for entry in self.manifest.artefacts}
        chosen = found.get(precision or self.manifest.default)  # type: ignore[call-overload]
        if chosen is None:
            raise DhoxError(f"This export holds no {precision} model.", f"Ask for one of: {', '.join(found)}.")
        return chosen

    def tensors(self, entry: Artefact) -> Tensors:
        """What the file of an artefact takes and gives."""
        return Tensors(self.manifest.preprocessing, entry.input)

    def file(self, name: str) -> Path:
        """One of the files that travel with the models, its hash checked."""
        return check_file(self.path, name, self.manifest.files[name])

    def model(self, entry: Artefact) -> Path:
        """The ONNX file of an artefact, its hash and what it says of itself checked: every command opens it here."""
        path = check_file(self.path, entry.file, entry.sha256)
        shape, dtype = input_of(entry.input, self.manifest.preprocessing.crop)
        check_metadata(check_onnx(path), self.manifest, Said(entry.file, entry.ir, entry.opset, dtype, shape))
        return path

    def images(self) -> ImageHashes:
        """What the validation and test images were."""
        return read_arrays(self.file(IMAGES_FILE), ImageHashes)

    def golden(self) -> Golden:
        """golden.npz."""
        side = self.manifest.preprocessing.crop
        return read_arrays(self.file(GOLDEN_FILE), Golden, C=len(self.manifest.classes), H=side, W=side)

    def heads(self) -> Heads:
        """heads.npz."""
        heads = read_arrays(self.file(HEADS_FILE), Heads, C=len(self.manifest.classes))
        if heads.two != self.manifest.student.two_heads:
            raise DhoxError(f"{self.path / HEADS_FILE} does not hold the heads of the student in the manifest.", AGAIN)
        return heads

    def validation(self) -> Logits:
        """val.npz."""
        return read_arrays(self.file(VAL_FILE), Logits, C=len(self.manifest.classes))

    def embeddings(self) -> Embeddings:
        """embeddings.npz of an export with an embedding."""
        assert self.manifest.embedding is not None
        return read_arrays(self.file(EMBEDDINGS_FILE), Embeddings, D=self.manifest.embedding)

    def rehearsal(self) -> Rehearsal | None:
        """rehearsal.npz, where the export has one."""
        if REHEARSAL_FILE not in self.manifest.files:
            return None
        return read_arrays(self.file(REHEARSAL_FILE), Rehearsal, C=len(self.manifest.classes))

    def ledger(self) -> Ledger:
        """ledger.json."""
        ledger = read_record(self.file(LEDGER_FILE), Ledger)
        if wrong := ledger.check_classes(len(self.manifest.classes)):
            raise DhoxError(f"{self.path / LEDGER_FILE} {wrong}.", AGAIN)
        return ledger


def open_export(path: Path) -> Export:
    """Read the manifest of an export directory. Raises DhoxError where there is none, or an unfinished one."""
    settle(path, EXPORT_FILE, EXPORT_SCHEMA)
    file = path / EXPORT_FILE
    if not path.exists() and not partial_directory(path).exists():
        raise not_there(path, "Give the directory that dhox export wrote: dhox export RUN")
    if not file.exists():
        partial = " (an export there did not finish)" if partial_directory(path).exists() else ""
        raise DhoxError(f"{path} is not an export directory{partial}: no {EXPORT_FILE}.", "Run: dhox export RUN")
    head = read_head(file)
    check_schema(file, head.schema, EXPORT_SCHEMA)
    if head.status != "complete":
        raise DhoxError(f"The export in {path} did not finish.", "Run it again: dhox export RUN --overwrite")
    return Export(path, read_record(file, Manifest))


def check_file(export: Path, name: str, expected: str) -> Path:
    """The path of a file of the export, once its hash is what the manifest says."""
    lost = "Copy the whole directory, or export again."
    return check_hash(export / name, expected, EXPORT_FILE, lost=lost, changed=AGAIN)


@dataclass(frozen=True)
class Said:
    """What an ONNX `file` must say of itself beside the manifest: its versions, and its input without the batch."""

    file: str
    ir: int
    opset: int
    dtype: str
    shape: tuple[int, ...]
    camera: dict[str, Any] | None = None


def check_metadata(found: OnnxFile, manifest: Manifest, expected: Said) -> None:
    """Raise DhoxError, naming the first difference, where a model says of itself what its JSON file does not."""
    metadata = {**model_metadata(manifest.names, manifest.preprocessing, manifest.fold), "camera": expected.camera}
    said: dict[str, tuple[Any, Any]] = {key: (found.dhox(key), value) for key, value in metadata.items()}
    said |= {
        "IR version": (found.ir, expected.ir), "opset": (found.opset, expected.opset),
        "inputs": (_shapes(found.inputs), [["image", expected.dtype, *expected.shape]]),
        "outputs": (_shapes(found.outputs), outputs_of(manifest)),
    }  # fmt: skip
    for key, (has, want) in said.items():
        if has != want:
            described = EXPORT_FILE if expected.camera is None else "camera.json"
            raise DhoxError(
                f"{expected.file} does not belong to {described}: {key} in the file: {_brief(has)}; expected: "
                f"{_brief(want)}.",
                "Copy both again, or export again.",
            )


def outputs_of(manifest: Manifest) -> list[list[str | int | None]]:
    """Name, type and length of every output of the graphs."""
    found: list[list[str | int | None]] = [["probs", "float32", len(manifest.classes)]]
    if manifest.embedding is not None:
        found.append([EMBEDDING, "float32", manifest.embedding])
    return found


def _shapes(tensors: list[Tensor]) -> list[list[str | int | None]]:
    """Name, type and sides of each, without the batch."""
    return [[tensor.name, tensor.dtype, *(tensor.shape or ())[1:]] for tensor in tensors]


def _brief(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."

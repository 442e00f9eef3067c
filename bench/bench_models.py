"""What is measured: model files, each with the contract of its input and output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.files import EXPORT_FILE, sha256
from dhox.artefacts.manifest import Artefact, Manifest
from dhox.errors import DhoxError, UsageError
from dhox.models.export_directory import Export, open_export
from dhox.runtimes.tensors import Tensors


@dataclass(frozen=True)
class Subject:
    """One model file.

    `name`: unique in one bench; `file`: the ONNX file, its hash checked; `precision`: what the file states;
    `input_kind`: one of INPUT_KINDS; `output_kind`: probs or logits; `export`, `manifest`: the
    directory it belongs to, None for a model of another tool. Such a model may also have the `input_kind` float-nhwc or
    uint8-nchw, take blue first (`bgr`), or have its batch size fixed in the file.
    """

    name: str
    file: Path
    precision: str
    sha256: str
    bytes: int
    input_kind: str
    classes: list[str]
    preprocessing: Preprocessing
    input_name: str = "image"
    input_dtype: str = "uint8"
    output_name: str = "probs"
    output_kind: str = "probs"
    export: Path | None = None
    manifest: Manifest | None = None
    contract: Path | None = None
    bgr: bool = False
    fixed_batch: int | None = None

    @property
    def tensors(self) -> Tensors:
        """What the file takes and gives."""
        return Tensors(
            self.preprocessing, self.input_kind, self.input_name, self.output_name, self.input_dtype, self.bgr,
            self.output_kind == "logits", self.fixed_batch,
        )  # fmt: skip


def open_subjects(paths: list[Path], contract: Path | None = None, precisions: tuple[str, ...] = ()) -> list[Subject]:
    """The models that PATHS name, in order: export directories (every artefact, or those of `precisions`), single
    model files of an export, and, with a contract file, ONNX files of other tools.

    Raises DhoxError for what is neither, for a file whose hash is not the manifest's, and for a damaged export.
    """
    found: list[Subject] = []
    for path in paths:
        if not path.exists():
            raise DhoxError(f"{path} does not exist.", "Give an export directory, or the file of a model.")
        if path.is_dir():
            found += export_subjects(path, precisions)
        elif (path.parent / EXPORT_FILE).is_file() and path.suffix == ".onnx":
            found.append(file_subject(path))
        else:
            found.append(foreign_subject(path, contract))
    if contract is not None and all(subject.export is not None for subject in found):
        raise UsageError(
            "--contract describes a model of another tool, and none was given.", "Name its .onnx file too."
        )
    names = [subject.name for subject in found]
    if len(set(names)) == len(names):
        return found
    named = [replace(subject, name=long_name(subject)) for subject in found]
    twice = {subject.name for subject in named if sum(other.name == subject.name for other in named) > 1}
    count: dict[str, int] = {}
    for place, subject in enumerate(named):
        if subject.name in twice:
            count[subject.name] = count.get(subject.name, 0) + 1
            named[place] = replace(subject, name=f"{subject.name} #{count[subject.name]}")
    return named


def export_subjects(export: Path, precisions: tuple[str, ...]) -> list[Subject]:
    """The artefacts of an export directory."""
    opened = open_export(export)
    entries = [opened.entry(precision) for precision in precisions] or opened.manifest.artefacts
    return [export_subject(opened, entry) for entry in entries]


def file_subject(path: Path) -> Subject:
    """One file of an export directory."""
    opened = open_export(path.parent)
    entries = {entry.file: entry for entry in opened.manifest.artefacts}
    if path.name not in entries:
        raise DhoxError(f"{path} is none of the models of its export ({', '.join(entries)}).", "Name one of them.")
    return export_subject(opened, entries[path.name])


def export_subject(export: Export, entry: Artefact) -> Subject:
    """One artefact, once it is what the manifest says."""
    return Subject(
        name=entry.precision, file=export.model(entry), precision=entry.precision, sha256=entry.sha256,
        bytes=entry.bytes, input_kind=entry.input, classes=export.manifest.names,
        preprocessing=export.manifest.preprocessing,
        input_dtype="uint8" if entry.input == "uint8-nhwc" else "float32", export=export.path, manifest=export.manifest,
    )  # fmt: skip


def foreign_subject(path: Path, contract: Path | None) -> Subject:
    """A model of another tool."""
    if contract is None:
        raise DhoxError(
            f"{path} is neither an export directory nor a model file of one.",
            "Give an export directory, or describe the "
            "model in a contract file (docs/sweep.md), then give --contract FILE.",
        )
    from dhox.bench.contract_model import contract_subject  # which builds on this file

    return contract_subject(path, contract)


def long_name(subject: Subject) -> str:
    """RUN/PRECISION for an export's artefact; others keep their name."""
    if subject.export is None:
        return subject.name
    export = subject.export.resolve()
    run = export.parent.name if export.name == "export" else export.name
    return f"{run}/{subject.precision}"


def subject_row(subject: Subject) -> dict[str, Any]:
    """The subject as bench.json records it."""
    manifest = subject.export / EXPORT_FILE if subject.export else None
    return {
        "name": subject.name,
        "file": subject.file.name,
        "path": str(subject.file.absolute()),
        "precision": subject.precision,
        "bytes": subject.bytes,
        "sha256": subject.sha256,
        "input_kind": subject.input_kind,
        "export": {"path": str(manifest.parent.absolute()), "manifest_sha256": sha256(manifest)} if manifest else None,
        "contract": str(subject.contract.absolute()) if subject.contract else None,
    }

"""A finished export in the form that another program takes: a folder beside the models (no torch needed)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dhox.artefacts.files import EXPORT_FILE, output_directory, sha256, write_bytes
from dhox.artefacts.manifest import Artefact
from dhox.artefacts.record import Kind, Sha256, read_record, schema_of, write_record
from dhox.errors import DhoxError
from dhox.export.integrations.deepstream import deepstream_files
from dhox.export.integrations.triton import triton_files
from dhox.models.export_directory import Export, open_export
from dhox.system.environment import now

EMIT_FILE = "emit.json"
Program = Literal["deepstream", "triton"]


class Emitted(Kind, kw_only=True):
    """emit.json: what was emitted from which export. `files`: by name below the folder."""

    schema: Literal["dhox.emit/1"] = "dhox.emit/1"
    status: Literal["complete"] = "complete"
    finished_at: str
    kind: Program
    manifest_sha256: Sha256
    files: dict[str, Sha256]


def emit(path: Path, program: Program) -> Path:
    """Write EXPORT/deepstream or EXPORT/triton from a finished export, and return that folder.

    The folder appears whole or not at all, and replaces one that `emit` wrote before. Raises DhoxError for a damaged
    export, for a graph that the program cannot feed, and for a folder that holds anything else or was edited.
    """
    export = open_export(path)
    entry = _entry_for(export, program)
    export.model(entry)
    folder = path / program
    _check_unedited(folder)
    contents = deepstream_files(export, entry) if program == "deepstream" else triton_files(export, entry)
    with output_directory(folder, EMIT_FILE, schema_of(Emitted), overwrite=True) as work:
        for name, content in contents.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(work / name, content)
        about = Emitted(
            finished_at=now(), kind=program, manifest_sha256=sha256(path / EXPORT_FILE),
            files={name: sha256(work / name) for name in contents},
        )  # fmt: skip
        write_record(work / EMIT_FILE, about)
    return folder


def _entry_for(export: Export, program: Program) -> Artefact:
    """The export's default model; for Triton fp16 or fp32.

    ONNX Runtime with its default options, which Triton uses, answers int8 files with a half-precision rest wrongly.
    """
    if program == "triton" and export.manifest.default == "int8":
        held = {entry.precision for entry in export.manifest.artefacts}
        return export.entry("fp16" if "fp16" in held else "fp32")
    return export.entry()


def _check_unedited(folder: Path) -> None:
    """Raise DhoxError where an emitted folder no longer holds what was emitted: that would be lost."""
    if not (folder / EMIT_FILE).is_file():
        return  # output_directory refuses whatever else may lie there
    known = read_record(folder / EMIT_FILE, Emitted).files
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != EMIT_FILE and (name not in known or sha256(path) != known[name]):
            raise DhoxError(f"{path} was edited or added since it was emitted.", "Move it away, then emit again.")

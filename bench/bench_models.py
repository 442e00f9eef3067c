"""What is measured: model files, each with the contract of its input and output."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from dhox.artefacts.bench import CameraWay, ExportLink, ModelRow
from dhox.artefacts.bench_accuracy import Precision
from dhox.artefacts.common import Preprocessing
from dhox.artefacts.contract import read_contract
from dhox.artefacts.files import EXPORT_FILE, settle_any, sha256
from dhox.artefacts.manifest import Artefact, Manifest
from dhox.errors import DhoxError, UsageError, not_there
from dhox.models.camera_files import CameraFile
from dhox.models.contract import check_model
from dhox.models.export_directory import Export, open_export
from dhox.models.onnx_file import check_onnx
from dhox.models.onnx_graph import read_graph
from dhox.runtimes.tensors import Tensors


@dataclass(frozen=True)
class BenchModel:
    """One model file.

    `name`: unique in one bench; `file`: the ONNX file, its hash checked; `precision`: what the file states;
    `input_kind`: one of INPUT_KINDS; `output_kind`: probs or logits; `export`, `manifest`: the
    directory it belongs to, None for a model of another tool. Such a model may also have the `input_kind` float-nhwc or
    uint8-nchw, take blue first (`bgr`), or have its batch size fixed in the file. `camera`, `camera_file`: of a model
    that is timed from raw frames, and whose frames they are.
    """

    name: str
    file: Path
    precision: Precision
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
    camera: CameraWay | None = None
    camera_file: CameraFile | None = None

    @property
    def tensors(self) -> Tensors:
        """What the file takes and gives."""
        return Tensors(
            self.preprocessing, self.input_kind, self.input_name, self.output_name, self.input_dtype, self.bgr,
            self.output_kind == "logits", self.fixed_batch,
        )  # fmt: skip

    def check_batch(self, batch: int) -> None:
        """Raise DhoxError where another batch size is fixed in the file."""
        if self.fixed_batch not in (None, batch):
            raise DhoxError(
                f"{self.name} takes batches of {self.fixed_batch} alone, as its file says, and not of {batch}.",
                f"Use --batch {self.fixed_batch}, or export the model with a dynamic batch.",
            )

    def row(self) -> ModelRow:
        """As bench.json records it."""
        manifest = self.export / EXPORT_FILE if self.export else None
        row = {
            "name": self.name, "file": self.file.name, "path": str(self.file.absolute()), "precision": self.precision,
            "bytes": self.bytes, "sha256": self.sha256, "input_kind": self.input_kind,
            "export": ExportLink(str(manifest.parent.absolute()), sha256(manifest)) if manifest else None,
            "contract": str(self.contract.absolute()) if self.contract else None,
        }  # fmt: skip
        return msgspec.structs.replace(msgspec.convert(row, ModelRow), camera=self.camera)


def open_models(paths: list[Path], contract: Path | None = None, precisions: tuple[str, ...] = ()) -> list[BenchModel]:
    """The models that PATHS name, in order: export directories (every artefact, or those of `precisions`), single
    model files of an export, and, with a contract file, ONNX files of other tools.

    Raises DhoxError for what is neither, for a file whose hash is not the manifest's, and for a damaged export.
    """
    found: list[BenchModel] = []
    for path in paths:
        settle_any(path)
        if not path.exists():
            raise not_there(path, "Give an export directory, or the file of a model.")
        if path.is_dir():
            found += _export_models(path, precisions)
        elif (path.parent / EXPORT_FILE).is_file() and path.suffix == ".onnx":
            found.append(_file_model(path))
        else:
            found.append(foreign_model(path, contract))
    if contract is not None and all(model.export is not None for model in found):
        raise UsageError(
            "--contract describes a model of another tool, and none was given.", "Name its .onnx file too."
        )
    return _with_unique_names(found)


def _with_unique_names(models: list[BenchModel]) -> list[BenchModel]:
    """The models, named RUN/PRECISION where precisions alone are not unique, and numbered where these are not."""
    if len({model.name for model in models}) == len(models):
        return models
    named = [replace(model, name=_long_name(model)) for model in models]
    twice = {name for name, count in Counter(model.name for model in named).items() if count > 1}
    seen: Counter[str] = Counter()
    for place, model in enumerate(named):
        if model.name in twice:
            seen[model.name] += 1
            named[place] = replace(model, name=f"{model.name} #{seen[model.name]}")
    return named


def _long_name(model: BenchModel) -> str:
    """RUN/PRECISION for an export's artefact; others keep their name."""
    if model.export is None:
        return model.name
    export = model.export.resolve()
    run = export.parent.name if export.name == "export" else export.name
    return f"{run}/{model.precision}"


def _export_models(export: Path, precisions: tuple[str, ...]) -> list[BenchModel]:
    opened = open_export(export)
    entries = [opened.entry(precision) for precision in precisions] or opened.manifest.artefacts
    return [_export_model(opened, entry) for entry in entries]


def _file_model(path: Path) -> BenchModel:
    opened = open_export(path.parent)
    entries = {entry.file: entry for entry in opened.manifest.artefacts}
    if path.name not in entries:
        raise DhoxError(f"{path} is none of the models of its export ({', '.join(entries)}).", "Name one of them.")
    return _export_model(opened, entries[path.name])


def _export_model(export: Export, entry: Artefact) -> BenchModel:
    """One artefact, once it is what the manifest says."""
    file = export.model(entry)
    return BenchModel(
        name=entry.precision, file=file, precision=entry.precision, sha256=entry.sha256,
        bytes=entry.bytes, input_kind=entry.input, classes=export.manifest.names,
        preprocessing=export.manifest.preprocessing,
        input_dtype="uint8" if entry.input == "uint8-nhwc" else "float32", export=export.path, manifest=export.manifest,
        fixed_batch=fixed_batch(file),
    )  # fmt: skip


def fixed_batch(file: Path) -> int | None:
    """The batch size that is fixed in an ONNX file; None where it takes any. dhox exports files that take any."""
    shapes = [taken.shape for taken in read_graph(file).inputs]
    return shapes[0][0] if shapes and shapes[0] and isinstance(shapes[0][0], int) else None


def foreign_model(path: Path, contract: Path | None) -> BenchModel:
    """A model of another tool, held against its contract. Named as the file, without its suffix.

    `bytes` and `sha256` cover the weights that lie in files beside the model, too. Raises DhoxError without a contract,
    for one that cannot be read or contradicts the file, and for a file that is no ONNX.
    """
    if contract is None:
        raise DhoxError(
            f"{path} is neither an export directory nor a model file of one.",
            "Give an export directory, or describe the "
            "model in a contract file (docs/sweep.md), then give --contract FILE.",
        )
    agreed = read_contract(contract)
    graph, fixed_batch = check_model(path, agreed)
    files = [path, *sorted({path.parent / name for name in check_onnx(path).external})]
    digests = [sha256(file) for file in files]
    pixels = "uint8" if agreed.input.dtype == "uint8" else "float"
    return BenchModel(
        name=path.stem, file=path, precision=graph.precision,
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        bytes=sum(file.stat().st_size for file in files), input_kind=f"{pixels}-{agreed.input.layout}",
        classes=agreed.classes, preprocessing=agreed.preprocessing, input_name=agreed.input.name,
        input_dtype=agreed.input.dtype, output_name=agreed.output.name, output_kind=agreed.output.kind,
        contract=contract, bgr=agreed.input.colour == "bgr", fixed_batch=fixed_batch,
    )  # fmt: skip


def check_batches(models: list[BenchModel], batches: tuple[int, ...]) -> None:
    """Raise DhoxError where none of the batch sizes fits a model."""
    for model in models:
        if model.fixed_batch not in (None, *batches):
            model.check_batch(batches[0])

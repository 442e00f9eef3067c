"""The models that are served: opened with `dhox.load`, each with a name of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhox.artefacts.files import EXPORT_FILE
from dhox.errors import DhoxError, UsageError
from dhox.models.classifier import ExportedModel, load
from dhox.models.export_directory import open_export
from dhox.serve.answers import ModelEntry


@dataclass(frozen=True)
class Asked:
    """A model as the command line names it. `precision`: None for the export's choice on this device."""

    export: Path
    precision: str | None


@dataclass(frozen=True)
class ServedModel:
    """An opened model. `name`: unique, what the page and the metrics call it."""

    name: str
    export: Path
    model: ExportedModel

    @property
    def entry(self) -> ModelEntry:
        """As the page shows it."""
        facts, artefact = self.model.session.facts, self.model.entry
        return ModelEntry(
            name=self.name, path=str(self.export), file=artefact.file, precision=artefact.precision,
            runner=f"{self.model.session.name} on {facts.device}" if facts.device != "tensorrt" else "tensorrt",
            classes=len(self.model.classes), reject_threshold=self.model.reject_threshold, note=facts.emulated,
        )  # fmt: skip


def asked_models(paths: list[Path], precisions: list[str]) -> list[Asked]:
    """Every export in every precision; a model file of an export is that one model. Raises DhoxError and UsageError."""
    found: list[Asked] = []
    each: list[str | None] = [*precisions] or [None]
    for path in paths:
        if path.is_dir() or not (path.parent / EXPORT_FILE).is_file():
            open_export(path)
            found += [Asked(path, precision) for precision in each]
        else:
            found.append(Asked(path.parent, _precision_of(path)))
    for asked, times in Counter(Asked(one.export.resolve(), one.precision) for one in found).items():
        if times > 1:
            raise UsageError(f"{asked.export} was named {times} times.", "Name every model once.")
    return found


def _precision_of(file: Path) -> str:
    """The precision of a model file that lies in an export."""
    artefacts = open_export(file.parent).manifest.artefacts
    for artefact in artefacts:
        if artefact.file == file.name:
            return artefact.precision
    known = ", ".join(artefact.file for artefact in artefacts)
    raise DhoxError(f"{file} is no model of the export {file.parent}.", f"Name the export, or one of: {known}.")


def open_models(asked: list[Asked], device: str, trust_engine: bool) -> list[ServedModel]:
    """Load the models and run each once, in the thread that will run them. Raises what `dhox.load` raises."""
    loaded = [load(one.export, device, one.precision, trust_engine) for one in asked]
    for model in loaded:
        model.probs_of(np.zeros((1, model.preprocessing.crop, model.preprocessing.crop, 3), np.uint8))
    names = model_names([(one.export, model.entry.precision) for one, model in zip(asked, loaded, strict=True)])
    return [ServedModel(*rest) for rest in zip(names, [one.export for one in asked], loaded, strict=True)]


def model_names(models: list[tuple[Path, str]]) -> list[str]:
    """`RUN PRECISION` of each model; with as much of its path as tells it from the others."""
    depth, longest = 1, max(len(export.absolute().parts) for export, _ in models)
    while True:
        names = [f"{short_path(export, depth)} {precision}" for export, precision in models]
        if len(set(names)) == len(names) or depth > longest:
            return names
        depth += 1


def short_path(export: Path, depth: int) -> str:
    """The last `depth` parts of an export's path, without the name `export` that most of them have."""
    parts = export.absolute().parts
    if parts[-1] == "export" and len(parts) > 2:
        parts = parts[:-1]
    return "/".join(parts[-depth:])

"""The student of the run behind an export, as the runner `torch` (needs torch; a board does not have it)."""

from __future__ import annotations

from pathlib import Path

from dhox.artefacts.files import RUN_FILE, sha256
from dhox.artefacts.run import read_run
from dhox.artefacts.run_directory import WEIGHTS_FILE
from dhox.bench.bench_models import BenchModel
from dhox.distill.students.student import load_student
from dhox.errors import DhoxError
from dhox.export.folding.fold import Fold
from dhox.export.graphs.graph import Deployable, folded_head, head_arrays
from dhox.export.graphs.torch_session import HALVES, TorchSession, to_half


def open_torch_session(model: BenchModel, name: str, device: str, options: frozenset[str]) -> TorchSession:
    """The student of the run that an export came from, with the head that the export folded.

    Raises DhoxError for a model without an export, where the run is not on this machine or was trained again, and for
    int8, which torch does not compute.
    """
    if model.manifest is None:
        raise DhoxError(
            f"The runner torch needs the run behind a model, and {model.file} has no export.", "Leave it out."
        )
    if model.precision not in {"fp32", *HALVES}:
        raise DhoxError(
            f"The runner torch has no {model.precision}.", "Give it the fp32 or fp16 model: --precision fp32."
        )
    run = Path(model.manifest.run.path)
    if not (run / RUN_FILE).is_file():
        raise DhoxError(f"The runner torch needs the run of this export, and {run} is not here.", "Leave it out.")
    if sha256(run / WEIGHTS_FILE) != model.manifest.run.weights_sha256:
        raise DhoxError(
            f"The run in {run} was trained again since this export.", "Export it again, or leave torch out."
        )
    module = deployable(run, model.manifest.fold, model.input_kind)
    if model.precision in HALVES:
        to_half(module, model.precision)
    return TorchSession(module, device, precision=model.precision, graph="graph" in options, name=name)


def deployable(run: Path, fold: Fold, input_kind: str = "uint8-nhwc") -> Deployable:
    """A run's student with the head that `fold` describes."""
    summary = read_run(run)
    student = load_student(run, summary.student)
    return Deployable(student.backbone, folded_head(head_arrays(student), fold), summary.preprocessing, input_kind)

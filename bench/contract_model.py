"""A classifier that dhox did not export, by its contract file, as something to measure."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dhox.artefacts.contract import read_contract
from dhox.artefacts.files import sha256
from dhox.bench.bench_models import Subject
from dhox.errors import DhoxError
from dhox.models.contract import check_model
from dhox.models.onnx_file import check_onnx


def contract_subject(model: Path, contract: Path) -> Subject:
    """The ONNX file `model`, held against its contract. Named as the file, without its suffix.

    `bytes` and `sha256` cover the weights that lie in files beside the model, too. Raises DhoxError for a contract that
    cannot be read or contradicts the file, and for a file that is no ONNX.
    """
    agreed = read_contract(contract)
    graph, fixed_batch = check_model(model, agreed)
    files = [model, *sorted({model.parent / name for name in check_onnx(model).external})]
    digests = [sha256(file) for file in files]
    pixels = "uint8" if agreed.input.dtype == "uint8" else "float"
    return Subject(
        name=model.stem, file=model, precision=graph.precision,
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        bytes=sum(file.stat().st_size for file in files), input_kind=f"{pixels}-{agreed.input.layout}",
        classes=agreed.classes, preprocessing=agreed.preprocessing, input_name=agreed.input.name,
        input_dtype=agreed.input.dtype, output_name=agreed.output.name, output_kind=agreed.output.kind,
        contract=contract, bgr=agreed.input.colour == "bgr", fixed_batch=fixed_batch,
    )  # fmt: skip


def check_batch(subject: Subject, batch: int) -> None:
    """Raise DhoxError where a model has another batch size fixed in its file."""
    if subject.fixed_batch not in (None, batch):
        raise DhoxError(
            f"{subject.name} has the batch size {subject.fixed_batch} fixed in its file, so batch {batch} cannot be "
            "measured.",
            f"Use --batch {subject.fixed_batch}, or export the model with a dynamic batch.",
        )


def check_batches(subjects: list[Subject], batches: tuple[int, ...]) -> None:
    """Raise DhoxError where none of the batch sizes fits a model."""
    for subject in subjects:
        if subject.fixed_batch not in (None, *batches):
            check_batch(subject, batches[0])

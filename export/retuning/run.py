"""`dhox retune EXPORT`: a new export with other alpha, beta, r or tau, without torch, the backbone as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec import to_builtins
from msgspec.structs import replace

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.embeddings import EMBEDDINGS_FILE
from dhox.artefacts.files import (
    EXPORT_FILE,
    EXPORT_SCHEMA,
    check_output,
    free_name,
    output_directory,
    sha256,
    write_bytes,
)
from dhox.artefacts.golden import GOLDEN_FILE, Golden
from dhox.artefacts.heads import HEADS_FILE
from dhox.artefacts.images import IMAGES_FILE
from dhox.artefacts.ledger import LEDGER_FILE, Ledger
from dhox.artefacts.logits import VAL_FILE
from dhox.artefacts.manifest import Artefact, Check, ExportResult, Manifest, RetunedFrom, side_files
from dhox.artefacts.record import write_record
from dhox.data.dataset import data_address
from dhox.distill.small_options import RetuneOptions
from dhox.errors import UsageError
from dhox.export.folding.head_weights import head_weights
from dhox.export.folding.refold import refold
from dhox.export.folding.reject import reject_threshold
from dhox.export.integrations.example import EXAMPLE_FILE, example_text
from dhox.export.model_card import CARD_FILE, write_card
from dhox.export.retuning.numbers import Before, Numbers, check_asked, new_numbers
from dhox.export.retuning.proof import ledger_again, proof
from dhox.models.export_directory import open_export
from dhox.system.environment import now, versions


@dataclass(frozen=True)
class After:
    """What is written: the new numbers, and the rewritten files with their proof."""

    numbers: Numbers
    models: dict[str, bytes]
    golden: Golden
    checks: list[Check]
    ledger: Ledger


def retune_export(
    export: Path,
    out: Path | None,
    options: RetuneOptions = RetuneOptions(),  # noqa: B008 - frozen
) -> ExportResult:
    """Write the export directory `out` (default: a free EXPORT-retuned) from EXPORT with other numbers in its head.

    The rule stays. Given numbers are taken; of what is not given tau is fitted again to a new r, and the rest stays,
    unless nothing is given: then all are chosen again from val.npz by the metric (default: the export's). Engines and
    what --emit wrote are left out: they hold other numbers. Raises DhoxError where the export is damaged or its graphs
    do not hold the head, UsageError where its rule has no such number, GateFailedError where a rewritten graph does not
    answer as heads.npz says; then nothing is written.
    """
    opened = open_export(export)
    check_asked(opened, options)
    data, overwrite = options.export.data, options.export.overwrite
    out = _place_of(export, out, overwrite)
    before = Before.of(opened)
    after = retuned(before, options)
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite) as folder:
        manifest = _write_export(folder, before, after, data)
    return ExportResult(out, manifest, after.ledger)


def _place_of(export: Path, out: Path | None, overwrite: bool) -> Path:
    """Where the new export goes. Raises UsageError for EXPORT itself, DhoxError for what may not be replaced."""
    if out is None:
        whole = export if export.name else export.resolve()
        place = whole.with_name(f"{whole.name}-retuned")
        out = place if overwrite else free_name(place)
    if out.resolve() == export.resolve():
        raise UsageError(f"{out} is the export to be retuned, and an export never changes.", "Choose another --out.")
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite)
    return out


def retuned(before: Before, options: RetuneOptions) -> After:
    """The new numbers, the files that hold them, and their proof."""
    numbers = new_numbers(before, options)
    old, new = (head_weights(before.heads, fold) for fold in (before.export.manifest.fold, numbers.fold))
    models = {name: refold(content, old, new, to_builtins(numbers.fold)) for name, content in before.models.items()}
    probs, checks = proof(before, models, numbers.fold)
    golden = Golden(**{**vars(before.golden), "probs": probs})
    return After(numbers, models, golden, checks, ledger_again(before, models, numbers.fold, options.export.data))


def _write_export(folder: Path, before: Before, after: After, data: Path | None) -> Manifest:
    """Write the new export; its manifest comes last."""
    export, old, numbers = before.export, before.export.manifest, after.numbers
    for name, content in after.models.items():
        write_bytes(folder / name, content)
    for name in (HEADS_FILE, VAL_FILE, IMAGES_FILE, *[EMBEDDINGS_FILE] * (old.embedding is not None)):
        write_bytes(folder / name, (export.path / name).read_bytes())
    write_arrays(folder / GOLDEN_FILE, after.golden)
    write_record(folder / LEDGER_FILE, after.ledger)
    beside = side_files(old.embedding is not None)
    known = {*before.models, *beside, CARD_FILE}
    reject = old.reject and reject_threshold(before.val, numbers.fold, old.reject.asked)
    write_bytes(folder / EXAMPLE_FILE, example_text(export.entry("fp32"), old.preprocessing, reject).encode())
    manifest = replace(
        old,
        finished_at=now(), fold=numbers.fold, metric=numbers.metric, n_selection_labels=numbers.n_labels,
        searched=numbers.searched, evidence=numbers.evidence, comparison=numbers.comparison, checks=after.checks,
        artefacts=[_rewritten_entry(entry, folder, after.checks) for entry in old.artefacts],
        environment=versions(), data=old.data if data is None else data_address(data), reject=reject,
        files={name: sha256(folder / name) for name in beside},
        retuned_from=RetunedFrom(
            str(export.path.absolute()), sha256(export.path / EXPORT_FILE), old.fold,
            sorted(path.name for path in export.path.iterdir() if path.name not in {*known, EXPORT_FILE}),
        ),
    )  # fmt: skip
    write_card(folder, manifest, None)
    write_record(folder / EXPORT_FILE, manifest)
    return manifest


def _rewritten_entry(entry: Artefact, folder: Path, checks: list[Check]) -> Artefact:
    check = next(check for check in checks if check.precision == entry.precision)
    path = folder / entry.file
    return replace(
        entry, bytes=path.stat().st_size, sha256=sha256(path),
        conversion=entry.conversion and replace(entry.conversion, before_retuning=True),
        golden_agreement=None if check.tolerance else check.agreement,
    )  # fmt: skip

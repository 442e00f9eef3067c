"""`dhox export`: a run directory to an export directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.embeddings import EMBEDDING, EMBEDDINGS_FILE, Embeddings
from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA, check_output, output_directory, sha256, write_bytes
from dhox.artefacts.golden import GOLDEN_FILE, Golden
from dhox.artefacts.heads import HEADS_FILE, Heads
from dhox.artefacts.images import IMAGES_FILE
from dhox.artefacts.ledger import LEDGER_FILE, Ledger, Stage
from dhox.artefacts.logits import VAL_FILE
from dhox.artefacts.manifest import (
    Artefact,
    Check,
    ComparisonRow,
    Evidence,
    ExportResult,
    Fold,
    Manifest,
    Precision,
    Reject,
    SourceRun,
    model_metadata,
    side_files,
)
from dhox.artefacts.record import write_record
from dhox.artefacts.rehearsal import REHEARSAL_FILE
from dhox.artefacts.run_directory import WEIGHTS_FILE, RunDirectory, open_run
from dhox.data.dataset import data_address, read_image
from dhox.distill.students.student import Student, load_student, parameters_m
from dhox.errors import DhoxError
from dhox.evidence.ledger import make_ledger
from dhox.export.accuracy_gate import check_accuracy_drop, check_enough_images
from dhox.export.check_images import CheckImages, check_images, load_pixels
from dhox.export.folding.cost import with_costs
from dhox.export.folding.fold import choose_fold, compare, tuned_linear, why_not_plain
from dhox.export.folding.reject import reject_threshold
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.embedding import features_of, with_embedding
from dhox.export.graphs.graph import Deployable, TwoHeads, folded_head, head_arrays, torch_probs
from dhox.export.graphs.known_students import choose_another
from dhox.export.graphs.onnx_contract import IR_VERSION
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import check_placement
from dhox.export.half_precision.convert import Converted
from dhox.export.integrations.example import EXAMPLE_FILE, example_text
from dhox.export.model_card import write_card
from dhox.export.options import ExportOptions, Folding, check
from dhox.export.parity import STAGES, check_against_torch, onnx_probs, stored_stages
from dhox.export.precisions import converted
from dhox.export.rehearsal.rehearse import check_enough_labels, rehearse
from dhox.export.stored_answers import check_stored_answers
from dhox.models.golden import TOLERANCE, make_golden
from dhox.progress import working
from dhox.runtimes.onnxruntime_session import OnnxSession
from dhox.runtimes.predict import predict
from dhox.runtimes.tensors import Tensors
from dhox.system.environment import now, versions

MODEL_FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
DEFAULTS = ExportOptions()
BEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class Choice:
    """The fold with the evidence for it, the comparison of all ways to answer, and why one of them is missing."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[ComparisonRow]
    note: str | None


@dataclass(frozen=True)
class Folded:
    """The student as it is deployed: torch modules with the folded head, and with both (None for a single head);
    `another`: the advice where it cannot be exported."""

    student: Student
    heads: Heads
    choice: Choice
    tensors: Tensors
    module: Deployable
    two_heads: Deployable | None
    another: str


@dataclass(frozen=True)
class Result:
    """The written files, what they answer against torch and stage by stage, when the answer is unknown, and the length
    of the embedding, where they give one."""

    artefacts: list[Artefact]
    checks: list[Check]
    ledger: Ledger
    reject: Reject | None
    embedding: int | None = None


def export(run: Path, out: Path, options: ExportOptions = DEFAULTS) -> ExportResult:
    """Fold, export, check, and write the export directory `out`.

    Raises UsageError for options that contradict each other, DhoxError for an unfinished run or missing images, and
    GateFailedError where a written graph does not answer as torch or loses more accuracy than allowed; then nothing is
    written.
    """
    check(options)
    source = open_run(run)
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, options.files.overwrite)
    if options.files.rehearse_drift:
        check_enough_labels(source.path, len(source.run.sets.validation))
    images = check_images(source, options.files.data)
    _check_labels_for_drop(options, images)
    folded = _fold_student(source, options)
    pixels = load_pixels(images.items, source.run.preprocessing, "Reading check images")
    with working("Holding the student against its run"):
        check_stored_answers(source, folded.student, images, pixels)
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, options.files.overwrite) as folder:
        models = _write_models(folder, source, folded, images, options)
        if options.files.emit_embedding:
            _write_embeddings(folder, models["fp32"], folded.tensors, images, pixels)
        with working("Holding the graphs against torch"):
            proof = prove(source, folded, models, images, pixels, options.checks.max_accuracy_drop)
        if options.files.rehearse_drift:
            rehearsal = rehearse(models["fp32"].content, folded.tensors, images.validation, source.run.labels)
            write_arrays(folder / REHEARSAL_FILE, rehearsal, C=len(source.run.classes))
        answers = partial(torch_probs, folded.module, tensors=folded.tensors)
        preprocessing = source.run.preprocessing
        shown = [read_image(item, preprocessing.jpeg_side) for item in images.golden]
        golden = make_golden(shown, preprocessing, answers)
        entries = [_artefact_entry(folder, precision, model, folded, golden) for precision, model in models.items()]
        asked = options.checks.reject_coverage
        reject = None if asked is None else reject_threshold(source.validation, folded.choice.fold, asked)
        width = folded.heads.ce_weight.shape[1] if options.files.emit_embedding else None
        result = Result(entries, *proof, reject, width)
        _write_side_files(folder, source, folded.heads, golden, result)
        manifest = make_manifest(folder, source, folded.choice, result, options)
        write_card(folder, manifest, source)
        write_record(folder / EXPORT_FILE, manifest)
    return ExportResult(out, manifest, result.ledger)


def _fold_student(source: RunDirectory, options: ExportOptions) -> Folded:
    tensors = Tensors(source.run.preprocessing, options.files.input)
    student = load_student(source.path, source.run.student)
    heads = head_arrays(student)
    choice = choose(source, heads, options.folding)
    module = deployable(student, folded_head(heads, choice.fold), tensors)
    both = None
    if heads.two and options.folding.fold_heads:
        both = deployable(student, TwoHeads(heads, source.selection.alpha, source.selection.beta), tensors)
    spec = source.run.student
    another = choose_another(spec.name, spec.image_size, parameters_m(student.backbone))
    return Folded(student, heads, choice, tensors, module, both, another)


def deployable(student: Student, head: nn.Module, tensors: Tensors) -> Deployable:
    """The whole exported function as a torch module."""
    return Deployable(student.backbone, head, tensors.preprocessing, tensors.kind).eval()


def choose(source: RunDirectory, heads: Heads, options: Folding) -> Choice:
    """The fold of a student, from its validation logits and heads."""
    if not heads.two:
        return Choice(Fold("single", 1.0, 1.0), None, [], None)
    selection, val = source.selection, source.validation
    alpha, beta, metric = selection.alpha, selection.beta, selection.metric
    note = why_not_plain(val) if heads.cosine else None
    tuned = tuned_linear(val, alpha, beta, metric)
    plain = tuned_linear(val, alpha, beta, metric, plain=True) if heads.cosine and note is None else None
    fold, evidence = choose_fold(
        val, tuned, options.fold_rule, options.fold_tolerance, metric, plain=plain, cosine=heads.cosine,
        searched=selection.searched,
    )  # fmt: skip
    comparison = with_costs(compare(val, tuned, plain), heads, alpha, beta)
    return Choice(fold if options.fold_heads else Fold("heads", alpha, beta), evidence, comparison, note)


def _check_labels_for_drop(options: ExportOptions, images: CheckImages) -> None:
    """Raise DhoxError where an accuracy drop is limited and no label can show it, or too few can."""
    allowed = options.checks.max_accuracy_drop
    if allowed is None:
        return
    if images.labels is None and not options.precisions.int8:
        raise DhoxError(
            f"--max-accuracy-drop needs labels, and the check images are {images.source}.",
            "Give --data with a val split, or leave the option out.",
        )
    if images.labels is not None:
        check_enough_images(
            len(images.labels), allowed, f"a file loses at most {allowed:g} points",
            "judge, allow more with --max-accuracy-drop, or leave it out.",
        )  # fmt: skip


def _write_models(
    folder: Path, source: RunDirectory, folded: Folded, images: CheckImages, options: ExportOptions
) -> dict[Precision, Converted]:
    metadata = model_metadata(source.run.labels, source.run.preprocessing, folded.choice.fold)
    tensors = folded.tensors
    graph = Deployable(exportable(folded.student.backbone), folded.module.head, tensors.preprocessing, tensors.kind)
    with working("Writing the graph as ONNX"):
        fp32 = export_onnx(graph.eval(), source.run.student.image_size, metadata, folded.another)
    models = converted(fp32, metadata, options.precisions, images, tensors, options.checks.max_accuracy_drop)
    if options.files.emit_embedding:
        width = folded.heads.ce_weight.shape[1]
        features = features_of(fp32, folded.choice.fold, folded.heads.cosine)
        models = {
            name: replace(model, content=with_embedding(model.content, features, width, metadata, model.opset))
            for name, model in models.items()
        }
    for precision, model in models.items():
        write_bytes(folder / MODEL_FILES[precision], model.content)
    return models


def _write_embeddings(folder: Path, fp32: Converted, tensors: Tensors, images: CheckImages, pixels: np.ndarray) -> None:
    """embeddings.npz: of the images that judge the graphs, uint8 [N, H, W, 3]."""
    found = predict(OnnxSession(fp32.content, names=("image", EMBEDDING)), tensors, pixels)
    write_arrays(folder / EMBEDDINGS_FILE, Embeddings(np.array(images.names, np.str_), found))


def prove(
    source: RunDirectory, folded: Folded, models: dict[Precision, Converted], images: CheckImages, pixels: np.ndarray,
    max_drop: float | None,
) -> tuple[list[Check], Ledger]:  # fmt: skip
    """Every graph against torch, and the ledger of all stages. Raises GateFailedError (see `export`)."""
    tensors = folded.tensors
    torch = torch_probs(folded.module, pixels, tensors)
    stages: dict[Stage, np.ndarray] = {"torch": torch}
    if folded.two_heads is not None:
        stages = {"two_head_torch": torch_probs(folded.two_heads, pixels, tensors), "folded_torch": torch}
    selection = source.selection
    rule = Fold("exact", selection.alpha, selection.beta) if folded.heads.two else folded.choice.fold
    stages = stored_stages(images.names, source.validation, rule) | stages
    reference = next(stage for stage in stages if stage != "teacher")
    checks = []
    for precision, model in models.items():
        stages[STAGES[precision]] = onnx_probs(model.content, pixels, tensors)
        checks.append(check_against_torch(precision, stages[STAGES[precision]], torch))
    note = None if images.labels is not None else "not run: the images have no labels"
    ledger = make_ledger(stages, images.names, images.labels, images.source, note)
    check_accuracy_drop(ledger, reference, max_drop)
    return checks, ledger


def _artefact_entry(folder: Path, precision: Precision, model: Converted, folded: Folded, golden: Golden) -> Artefact:
    path, tensors, agreement = folder / MODEL_FILES[precision], folded.tensors, None
    if precision not in TOLERANCE:
        probs = onnx_probs(model.content, golden.input, tensors)
        agreement = float((probs.argmax(-1) == golden.probs.argmax(-1)).mean())
    return Artefact(
        file=path.name, precision=precision, opset=model.opset, ir=IR_VERSION,
        input=tensors.kind,  # type: ignore[arg-type]
        bytes=len(model.content), sha256=sha256(path), golden_agreement=agreement,
        placement=check_placement(precision, model.content, tensors.graph_input(golden.input[:1]), folded.another),
        conversion=model.account,
    )  # fmt: skip


def _write_side_files(folder: Path, source: RunDirectory, heads: Heads, golden: Golden, result: Result) -> None:
    """What travels with the models, but for the manifest."""
    write_arrays(folder / GOLDEN_FILE, golden)
    write_arrays(folder / HEADS_FILE, heads)
    for name in (VAL_FILE, IMAGES_FILE):
        write_bytes(folder / name, (source.path / name).read_bytes())
    write_record(folder / LEDGER_FILE, result.ledger)
    example = example_text(result.artefacts[0], source.run.preprocessing, result.reject)
    write_bytes(folder / EXAMPLE_FILE, example.encode())


def make_manifest(
    folder: Path, source: RunDirectory, choice: Choice, result: Result, options: ExportOptions
) -> Manifest:
    """The manifest of the files that are written in `folder`."""
    run, selection = source.run, source.selection
    weights = run.files.get(WEIGHTS_FILE) or sha256(source.path / WEIGHTS_FILE)
    written = {entry.precision for entry in result.artefacts}
    beside = side_files(options.files.emit_embedding, options.files.rehearse_drift)
    return Manifest(
        finished_at=now(),
        run=SourceRun(str(source.path.absolute()), run.method, weights),
        skipped=run.skipped, data=data_address(options.files.data or Path(run.data)), student=run.student,
        teacher=run.teacher, classes=run.classes, preprocessing=run.preprocessing,
        n_selection_labels=selection.n_selection_labels, metric=selection.metric, fold=choice.fold,
        fold_asked=options.folding.fold_rule if options.folding.fold_heads else "keep-heads", fold_note=choice.note,
        searched=selection.searched, evidence=choice.evidence, comparison=choice.comparison, checks=result.checks,
        reject=result.reject, artefacts=result.artefacts,
        default=next(precision for precision in BEST_FIRST if precision in written), environment=versions(),
        files={name: sha256(folder / name) for name in beside},
        embedding=result.embedding,
    )  # fmt: skip

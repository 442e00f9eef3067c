"""`dhox export`: a run directory to an export directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.common import Preprocessing, StudentSpec
from dhox.artefacts.files import (
    EXPORT_FILE,
    EXPORT_SCHEMA,
    RUN_FILE,
    RUN_SCHEMA,
    check_output,
    output_directory,
    partial_directory,
    read_json,
    read_npz,
    settle,
    sha256,
    write_bytes,
    write_json,
    write_npz,
)
from dhox.data.dataset import data_address, read_image
from dhox.distill.students.student import WEIGHTS_FILE, load_student
from dhox.errors import DhoxError
from dhox.evidence.ledger import ledger_content
from dhox.export.folding.cost import with_costs
from dhox.export.folding.fold import Evidence, Fold, choose_fold, compare, tuned_linear, why_not_plain
from dhox.export.folding.head_weights import is_cosine
from dhox.export.folding.reject import reject_threshold
from dhox.export.graphs.backbone import exportable
from dhox.export.graphs.graph import Deployable, TwoHeads, folded_head, head_arrays, torch_probs
from dhox.export.graphs.onnx_contract import IR_VERSION
from dhox.export.graphs.onnx_export import export_onnx
from dhox.export.graphs.placement import check_placement
from dhox.export.integrations.emit import example_text
from dhox.export.parity import (
    check_accuracy_drop,
    check_against_torch,
    check_images,
    load_pixels,
    onnx_probs,
    teacher_probs,
)
from dhox.export.precisions import Model, converted
from dhox.models.export_directory import SIDE_FILES, graph_input
from dhox.models.golden import TOLERANCE, golden_arrays
from dhox.system.environment import now, versions

MODEL_FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True)
class ExportResult:
    """What `dhox export` reports: the content of manifest.json and of ledger.json."""

    export: Path
    manifest: dict[str, Any]
    ledger: dict[str, Any]


def export(
    run: Path,
    out: Path,
    *,
    fold_heads: bool = True,
    fold_rule: str = "auto",
    fold_tolerance: float = 1.0,
    fp16: bool = False,
    int8: bool = False,
    int8_ranges: str = "minmax",
    quantize_head: bool = False,
    input_kind: str = "uint8-nhwc",
    max_accuracy_drop: float | None = None,
    reject_coverage: float | None = None,
    data: Path | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Fold, export, check, and write the export directory `out`.

    `fold_rule`: auto, linear or exact; `fold_heads` False keeps the two heads in the graph. `fp16`, `int8`:
    files to write besides fp32; `int8_ranges`: one of qdq.METHODS; `quantize_head`: int8 takes the last linear layer
    too. `input_kind`: one of INPUT_KINDS.
    `max_accuracy_drop`: points of top-1 that an ONNX file may have less than the student in torch, and int8 less than
    fp32 (without labels: the percentage of int8's answers that may differ from fp32's). `reject_coverage`:
    see `reject_threshold`. `data`: where the run's images are now, if moved. Raises DhoxError for an unfinished run
    or missing images, GateFailedError where a written graph does not answer as torch or loses more accuracy than
    allowed; then nothing is written.
    """
    summary = read_run(run)
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite)
    selection = read_json(run / "selection.json", "dhox.selection/1")
    val = read_npz(run / "val.npz")
    preprocessing = Preprocessing.from_json(summary["preprocessing"])
    spec = msgspec.convert(summary["student"], StudentSpec)
    student = load_student(run, spec)
    heads = head_arrays(student)
    choice = choose(val, selection, spec.two_heads, heads, fold_heads, fold_rule, fold_tolerance)
    fold = choice.fold
    reject = None if reject_coverage is None else reject_threshold(val, fold, reject_coverage)

    images = check_images(summary, data)
    if max_accuracy_drop is not None and images.labels is None and not int8:
        raise DhoxError(
            f"--max-accuracy-drop needs labels, and the check images are {images.source}.",
            "Give --data with a val split, or leave the option out.",
        )
    pixels = load_pixels(images.items, preprocessing, "Reading check images")
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite) as folder:
        # The graphs.
        metadata = {
            "classes": [entry["name"] for entry in summary["classes"]],
            "preprocessing": preprocessing.to_json(),
            "fold": fold.to_json(),
        }
        module = Deployable(student.backbone, folded_head(heads, fold), preprocessing, input_kind).eval()
        graph = Deployable(exportable(student.backbone), module.head, preprocessing, input_kind).eval()
        wanted = [name for name, asked in (("fp16", fp16), ("int8", int8)) if asked]
        models = converted(
            export_onnx(graph, spec.image_size, metadata), metadata, wanted, images, preprocessing, input_kind,
            int8_ranges=int8_ranges, quantize_head=quantize_head, max_drop=max_accuracy_drop,
        )  # fmt: skip
        for precision, model in models.items():
            write_bytes(folder / MODEL_FILES[precision], model.content)

        # The proof: against torch, and stage by stage.
        answers = {
            precision: onnx_probs(model.content, pixels, input_kind, preprocessing)
            for precision, model in models.items()
        }
        stages = {"torch": torch_probs(module, pixels, input_kind, preprocessing)}
        if fold_heads and spec.two_heads:
            two = TwoHeads(heads, selection["alpha"], selection["beta"])
            unfolded = Deployable(student.backbone, two, preprocessing, input_kind).eval()
            stages = {
                "two_head_torch": torch_probs(unfolded, pixels, input_kind, preprocessing),
                "folded_torch": stages["torch"],
            }
        reference, last = next(iter(stages)), list(stages)[-1]
        checks = [check_against_torch(precision, probs, stages[last]) for precision, probs in answers.items()]
        names = [item.name for item in images.items]
        teacher = teacher_probs(names, val)
        stages = ({} if teacher is None else {"teacher": teacher}) | stages
        stages |= {f"onnx_{precision}": probs for precision, probs in answers.items()}
        note = None if images.labels is not None else "not run: the images have no labels"
        ledger = ledger_content(stages, names, images.labels, images.source, note)
        check_accuracy_drop(ledger, reference, max_accuracy_drop)

        # What travels with the models.
        golden = golden_arrays([read_image(item) for item in images.golden], preprocessing)
        golden["probs"] = torch_probs(module, golden["input"], input_kind, preprocessing)
        entries = [
            artefact_entry(folder / MODEL_FILES[precision], precision, model, input_kind, golden, preprocessing)
            for precision, model in models.items()
        ]
        write_npz(folder / "golden.npz", **golden)
        write_npz(folder / "heads.npz", **heads)
        write_bytes(folder / "val.npz", (run / "val.npz").read_bytes())
        write_json(folder / "ledger.json", ledger)

        manifest: dict[str, Any] = {
            "schema": EXPORT_SCHEMA,
            "status": "complete",
            "finished_at": now(),
            "run": {
                "path": str(run.absolute()), "method": summary["method"],
                "weights_sha256": sha256(run / WEIGHTS_FILE),
            },
            "skipped": summary["skipped"],
            "data": data_address(data or Path(summary["data"])),
            "student": summary["student"],
            "teacher": summary["teacher"],
            "classes": summary["classes"],
            "preprocessing": preprocessing.to_json(),
            "n_selection_labels": selection["n_selection_labels"],
            "metric": selection["metric"],
            "fold": fold.to_json(),
            "fold_asked": fold_rule if fold_heads else "keep-heads",
            "fold_note": choice.note,
            "searched": selection["searched"],
            "evidence": choice.evidence.to_json() if choice.evidence else None,
            "comparison": choice.comparison,
            "checks": checks,
            "reject": reject,
            "artefacts": entries,
            "default": next(precision for precision in ("int8", "fp16", "fp32") if precision in models),
            "environment": versions(),
        }  # fmt: skip
        write_bytes(folder / "example.py", example_text(manifest).encode())
        manifest["files"] = {name: sha256(folder / name) for name in SIDE_FILES}
        write_json(folder / EXPORT_FILE, manifest)
    return ExportResult(out, manifest, ledger)


@dataclass(frozen=True)
class Choice:
    """The fold with the evidence for it, the comparison of all ways to answer, and why one of them is missing."""

    fold: Fold
    evidence: Evidence | None
    comparison: list[dict[str, Any]]
    note: str | None


def choose(
    val: dict[str, np.ndarray], selection: dict[str, Any], two_heads: bool, heads: dict[str, np.ndarray],
    fold_heads: bool, fold_rule: str, tolerance: float,
) -> Choice:  # fmt: skip
    """The fold of a student, from its validation logits `val` and heads; `tolerance` in points."""
    if not two_heads:
        return Choice(Fold("single", 1.0, 1.0), None, [], None)
    alpha, beta, metric = selection["alpha"], selection["beta"], selection["metric"]
    cosine = is_cosine(heads)
    note = why_not_plain(val) if cosine else None
    tuned = tuned_linear(val, alpha, beta, metric)
    plain = tuned_linear(val, alpha, beta, metric, plain=True) if cosine and note is None else None
    fold, evidence = choose_fold(
        val, tuned, fold_rule, tolerance, metric, plain=plain, cosine=cosine, searched=selection["searched"]
    )
    comparison = with_costs(compare(val, tuned, plain), heads, alpha, beta)
    return Choice(fold if fold_heads else Fold("heads", alpha, beta), evidence, comparison, note)


def artefact_entry(
    path: Path, precision: str, model: Model, input_kind: str, golden: dict[str, np.ndarray],
    preprocessing: Preprocessing,
) -> dict[str, Any]:  # fmt: skip
    """The manifest's entry for a written model.

    `golden_agreement`: share of golden images with torch's label, for precisions that have no tolerance; else None.
    """
    agreement = None
    if precision not in TOLERANCE:
        probs = onnx_probs(model.content, golden["input"], input_kind, preprocessing)
        agreement = float((probs.argmax(-1) == golden["probs"].argmax(-1)).mean())
    return {
        "file": path.name, "precision": precision, "opset": model.opset, "ir": IR_VERSION, "input": input_kind,
        "bytes": len(model.content), "sha256": sha256(path),
        "golden_agreement": agreement,
        **check_placement(precision, model.content, graph_input(golden["input"][:1], input_kind, preprocessing)),
        "conversion": model.conversion,
    }  # fmt: skip


def read_run(run: Path) -> dict[str, Any]:
    """run.json of a finished training. Raises DhoxError for anything else, and says which."""
    settle(run, RUN_FILE, RUN_SCHEMA)
    partial = partial_directory(run)
    if not (run / RUN_FILE).exists():
        if (partial / RUN_FILE).exists():
            raise DhoxError(
                f"The training of {run} was interrupted ({partial} is unfinished).", "Run dhox distill again."
            )
        raise DhoxError(f"{run} is not a run directory: no {RUN_FILE}.", "Give the directory that dhox distill wrote.")
    summary = read_json(run / RUN_FILE, RUN_SCHEMA)
    if summary.get("status") != "complete":
        raise DhoxError(f"The training in {run} was interrupted.", "Run dhox distill again.")
    return summary

"""`dhox export`: a run directory to an export directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.dataset import data_address, read_image
from dhox.distill.student import WEIGHTS_FILE, StudentSpec, load_student
from dhox.environment import now, versions
from dhox.errors import DhoxError
from dhox.export.backbone import exportable
from dhox.export.calibrated import calibration_inputs, to_half
from dhox.export.check import (
    check_against_torch,
    check_images,
    ledger_rows,
    load_pixels,
    onnx_probs,
    torch_probs,
)
from dhox.export.cost import with_costs
from dhox.export.fold import Fold, choose_fold, compare, tuned_linear
from dhox.export.graph import Deployable, TwoHeads, folded_head, head_arrays
from dhox.export.onnx_export import export_onnx
from dhox.export.onnx_file import IR_VERSION, OPSET
from dhox.files import (
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
from dhox.golden import golden_arrays
from dhox.images import Preprocessing

MODEL_FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}


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
    input_kind: str = "uint8-nhwc",
    data: Path | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Fold, export, check, and write the export directory `out`.

    `fold_rule`: auto, linear or exact; `fold_heads` False keeps the two heads in the graph. `input_kind`: uint8-nhwc or
    float-nchw. `data`: where the run's images are now, if they moved. Raises
    DhoxError for an unfinished run or missing images, GateFailedError where a written graph does not answer as torch.
    """
    summary = read_run(run)
    check_output(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite)
    selection = read_json(run / "selection.json", "dhox.selection/1")
    val = read_npz(run / "val.npz")
    preprocessing = Preprocessing.from_json(summary["preprocessing"])
    spec = StudentSpec.from_json(summary["student"])
    student = load_student(run, spec)
    heads = head_arrays(student)
    alpha, beta, metric = selection["alpha"], selection["beta"], selection["metric"]

    fold, evidence = Fold("single", 1.0, 1.0), None
    comparison: list[dict[str, Any]] = []
    if spec.two_heads:
        tuned = tuned_linear(val, alpha, beta, metric)
        fold, evidence = choose_fold(val, tuned, fold_rule, fold_tolerance, metric)
        if not fold_heads:
            fold = Fold("heads", alpha, beta)
        comparison = with_costs(compare(val, tuned), heads, alpha, beta)

    images = check_images(summary, data)
    with output_directory(out, EXPORT_FILE, EXPORT_SCHEMA, overwrite) as folder:
        metadata = {
            "classes": [entry["name"] for entry in summary["classes"]],
            "preprocessing": preprocessing.to_json(),
            "fold": fold.to_json(),
        }
        uint8_input = input_kind == "uint8-nhwc"
        module = Deployable(student.backbone, folded_head(heads, fold), preprocessing, uint8_input).eval()
        graph = Deployable(exportable(student.backbone), module.head, preprocessing, uint8_input).eval()
        files = {"fp32": export_onnx(graph, spec.image_size, metadata)}
        pixels = load_pixels(images.items, preprocessing)
        half = None
        if fp16:
            half = to_half(files["fp32"], metadata, calibration_inputs(pixels, input_kind, preprocessing))
            files["fp16"] = half.content
        for precision, content in files.items():
            write_bytes(folder / MODEL_FILES[precision], content)

        reference = torch_probs(module, pixels, input_kind, preprocessing)
        onnx = {
            precision: onnx_probs(content, pixels, input_kind, preprocessing) for precision, content in files.items()
        }
        checks = [check_against_torch(precision, probs, reference) for precision, probs in onnx.items()]
        stages = {"folded_torch" if fold_heads and spec.two_heads else "torch": reference}
        if fold_heads and spec.two_heads:
            unfolded = Deployable(student.backbone, TwoHeads(heads, alpha, beta), preprocessing, uint8_input).eval()
            stages = {"two_head_torch": torch_probs(unfolded, pixels, input_kind, preprocessing)} | stages
        stages |= {f"onnx_{precision}": probs for precision, probs in onnx.items()}
        ledger = {
            "schema": "dhox.ledger/1",
            "images": images.source,
            "rows": ledger_rows(stages, images, val),
        }

        golden = golden_arrays([read_image(item) for item in images.golden], preprocessing)
        golden["probs"] = torch_probs(module, golden["input"], input_kind, preprocessing)
        write_npz(folder / "golden.npz", **golden)
        write_npz(folder / "heads.npz", **heads)
        write_bytes(folder / "val.npz", (run / "val.npz").read_bytes())
        write_json(folder / "ledger.json", ledger)

        manifest = {
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
            "metric": metric,
            "fold": fold.to_json(),
            "fold_asked": fold_rule if fold_heads else "keep-heads",
            "evidence": evidence.to_json() if evidence else None,
            "comparison": comparison,
            "checks": checks,
            "half": half.to_json() if half else None,
            "artefacts": [
                {
                    "file": MODEL_FILES[precision], "precision": precision, "opset": OPSET, "ir": IR_VERSION,
                    "input": input_kind, "bytes": len(content), "sha256": sha256(folder / MODEL_FILES[precision]),
                }
                for precision, content in files.items()
            ],
            "default": "fp16" if fp16 else "fp32",
            "files": {name: sha256(folder / name) for name in ("golden.npz", "heads.npz", "val.npz", "ledger.json")},
            "environment": versions(),
        }  # fmt: skip
        write_json(folder / EXPORT_FILE, manifest)
    return ExportResult(out, manifest, ledger)


def read_run(run: Path) -> dict[str, Any]:
    """run.json of a finished training. Raises DhoxError for anything else, and says which."""
    settle(run, RUN_FILE, RUN_SCHEMA)
    partial = partial_directory(run)
    if not (run / RUN_FILE).exists():
        if (partial / RUN_FILE).exists():
            raise DhoxError(f"The training of {run} was interrupted ({partial} is unfinished). Run dhox distill again.")
        raise DhoxError(f"{run} is not a run directory: no {RUN_FILE}. Give the directory that dhox distill wrote.")
    summary = read_json(run / RUN_FILE, RUN_SCHEMA)
    if summary.get("status") != "complete":
        raise DhoxError(f"The training in {run} was interrupted. Run dhox distill again.")
    return summary

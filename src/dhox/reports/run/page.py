"""report.html of a run: what it, its export and its bench say, on one page without external resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhox.artefacts.files import (
    BENCH_FILE,
    BENCH_SCHEMA,
    EXPORT_FILE,
    EXPORT_SCHEMA,
    RUN_FILE,
    holds,
    newest,
    read_json,
    read_npz,
    sha256,
    write_bytes,
)
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.manifest import Fold
from dhox.artefacts.record import schema_of
from dhox.artefacts.run import Run, read_run
from dhox.artefacts.run_directory import RunDirectory, open_run
from dhox.artefacts.selection import Selection
from dhox.errors import DhoxError, require
from dhox.evidence.dho_inference import dho_probs
from dhox.evidence.statistics import MOST_CONFUSION_CLASSES, accuracy_row, confusion_matrix
from dhox.export.folding.fold import fold_probs
from dhox.reports.bench.charts import distribution_chart, told_rows
from dhox.reports.bench.page import distribution_caption, write_bench_page
from dhox.reports.bench.text import device_ledger_sentence, device_sentence, golden_sentence
from dhox.reports.export.tables import fold_sentence, loss_sentence, precision_lines
from dhox.reports.run.charts import comparison_chart, gradient_chart, learning_curves
from dhox.reports.tables import (
    METRICS,
    STAGES,
    label_free_sentence,
    selection_sentence,
)


def report_libraries_missing() -> str | None:
    """Why no report can be drawn here, or None."""
    try:
        require("jinja2", "report")
        require("matplotlib", "report")
    except DhoxError as err:
        return str(err)
    return None


def write_report(
    directory: Path, costs: dict[str, dict[str, Any]] | None = None, labels_only: Path | None = None
) -> Path:
    """Write DIRECTORY/report.html for a run or a bench directory.

    A run directory brings its own export and newest bench. `costs`: stage -> {"bytes", "latency_ms"} measured
    elsewhere. `labels_only`: a run to compare with. Raises DhoxError for a directory that is neither, and
    for files that dhox did not write.
    """
    if (directory / BENCH_FILE).exists():
        return write_bench_page(directory)
    if not (directory / RUN_FILE).exists():
        raise DhoxError(
            f"{directory} is neither a run nor a bench directory.", "Give one that holds run.json or bench.json."
        )
    jinja2 = require("jinja2", "report")
    opened = open_run(directory)
    summary, selection = opened.run, opened.selection
    export = directory / "export" if holds(directory / "export", EXPORT_FILE, EXPORT_SCHEMA) else None
    manifest = read_json(export / EXPORT_FILE, EXPORT_SCHEMA) if export else None
    bench = newest(directory / "bench", BENCH_FILE, BENCH_SCHEMA) if export else None
    content = bench_of_export(read_json(bench / BENCH_FILE, BENCH_SCHEMA), export) if bench and export else None
    timed = told_rows(content) if content else []

    rows = line_rows(opened, manifest, content, costs or {}, labels_only)
    page = {
        "title": f"{directory.name}: {summary.student.name}",
        "subtitle": subtitle(summary, content),
        "rows": rows,
        "show_cost": content is not None,
        "rows_caption": rows_caption(rows, summary, content),
        "ledger": ledger_table(export) if export else None,
        "fold": fold_sentence(manifest) if manifest else None,
        "precisions": precision_lines(manifest) if manifest else [],
        "curves": learning_curves(directory) if (directory / "metrics.csv").exists() else None,
        "gradients": gradient_chart(directory) if (directory / "gradients.csv").exists() else None,
        "latency": distribution_chart(content, read_npz(bench / "samples.npz"), timed)
        if bench and content and timed
        else None,
        "latency_caption": distribution_caption(content, timed) if content else None,
        "comparison": comparison_chart(manifest["comparison"], manifest["fold"])
        if manifest and manifest["comparison"]
        else None,
        "comparison_caption": comparison_caption(manifest["comparison"]) if manifest else None,
        "heat": heat_map(selection),
        "confusion": confusion_table(opened, content),
        "method": method_lines(summary, selection, content),
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "run.html.j2").read_text(encoding="utf-8"))
    write_bytes(directory / "report.html", template.render(page).encode())
    return directory / "report.html"


def bench_of_export(content: dict[str, Any], export: Path) -> dict[str, Any] | None:
    """What a bench says of the models of this very export, by the first runner; None where it measured others."""
    digest = sha256(export / EXPORT_FILE)
    names = [
        subject["name"]
        for subject in content["subjects"]
        if subject["export"] and subject["export"]["manifest_sha256"] == digest
    ]
    runner = next((row["runner"] for row in content["runners"] if row["subject"] in names), None)

    def own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if row["subject"] in names and row["runner"] == runner]

    if runner is None:
        return None
    return content | {
        **{part: own(content[part]) for part in ("runners", "latency", "golden")},
        "accuracy": content["accuracy"] | {"rows": own(content["accuracy"]["rows"])},
        "ledgers": [ledger | {"rows": own(ledger["rows"])} for ledger in content["ledgers"]],
    }


def line_rows(
    opened: RunDirectory,
    manifest: dict[str, Any] | None,
    bench: dict[str, Any] | None,
    costs: dict[str, dict[str, Any]],
    labels_only: Path | None = None,
) -> list[dict[str, Any]]:
    """The line, stage by stage, on test: name, accuracy, interval, size in MB and latency in ms as texts."""
    rows: list[dict[str, Any]] = [msgspec.to_builtins(row) for row in opened.run.test or []]
    if labels_only:
        row = (read_run(labels_only).test or [])[0]
        rows.insert(1, msgspec.to_builtins(row) | {"stage": "labels_only"})
    if manifest and opened.test and manifest["fold"]["rule"] in {"linear", "exact"}:
        right = fold_probs(opened.test, Fold(**manifest["fold"])).argmax(-1) == opened.test.labels
        rows.append({"stage": "folded_torch", **accuracy_row(right)})
    for accuracy in (bench or {"accuracy": {"rows": []}})["accuracy"]["rows"]:
        rows.append({**accuracy, "stage": f"onnx_{accuracy['precision']}"})
    costs = onnx_costs(bench) | costs
    return [
        {
            "stage": row["stage"],
            "name": STAGES[row["stage"]],
            "accuracy": row["accuracy"],
            "interval": row["interval"],
            "size": f"{costs[row['stage']]['bytes'] / 1e6:.2f}" if row["stage"] in costs else "",
            "latency": latency_text(costs.get(row["stage"])),
        }
        for row in rows
    ]


def onnx_costs(bench: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Size and batch-1 latency of each benched file; no time where the CPU emulated the precision."""
    content = bench or {"latency": [], "subjects": []}
    subjects = {row["name"]: row for row in content["subjects"]}
    rows = [row for row in content["latency"] if row["batch"] == 1 and row["scope"] == "e2e"]
    return {
        f"onnx_{subjects[row['subject']]['precision']}": {
            "bytes": subjects[row["subject"]]["bytes"],
            "latency_ms": None if row["emulated"] else row["latency_ms"]["p50"],
        }
        for row in rows
    }


def latency_text(cost: dict[str, Any] | None) -> str:
    """A latency cell."""
    if cost is None:
        return ""
    return "emulated on CPU" if cost["latency_ms"] is None else f"{cost['latency_ms']:.3f}"


def subtitle(summary: Run, bench: dict[str, Any] | None) -> str:
    """One line: sets, teacher, machine."""
    sets = summary.sets
    teacher = summary.teacher.name if summary.teacher else "no teacher"
    text = (
        f"{summary.method} with {sets.n_labelled} labelled and {sets.n_unlabelled} unlabelled images, "
        f"{len(summary.classes)} classes, teacher {teacher}"
    )
    if bench:
        text += f"; measured on {device_sentence(bench)}, {bench['finished_at'][:10]}"
    return text


def rows_caption(rows: list[dict[str, Any]], summary: Run, bench: dict[str, Any] | None) -> str:
    """What the first table's numbers are."""
    if not rows:
        return ""
    text = f"Test split, {summary.sets.n_test} images; nothing was chosen on it. Wilson intervals."
    if bench:
        text += f" Latency: batch 1, e2e; ONNX rows by {bench['runners'][0]['runner']}"
        torch_rows = any(row["latency"] and not row["stage"].startswith("onnx_") for row in rows)
        text += ", the others in torch (eager) on the CPU, with the same clock." if torch_rows else "."
    return text


def ledger_table(export: Path) -> dict[str, Any]:
    """ledger.json with readable stage names."""
    ledger = read_json(export / "ledger.json", schema_of(Ledger))
    rows = [{**row, "name": STAGES[row["stage"]]} for row in ledger["rows"]]
    return {"images": ledger["images"], "rows": rows, "loss": loss_sentence(ledger)} if rows else {}


def heat_map(selection: Selection) -> dict[str, Any] | None:
    """The alpha-beta grid as table cells; shades from the lowest to the highest accuracy."""
    grid = selection.grid
    if grid is None:
        return None
    accuracy = np.array(grid.score)
    low, high = float(accuracy.min()), float(accuracy.max())
    lines = [
        {
            "beta": beta,
            "cells": [
                {
                    "accuracy": accuracy[row, column],
                    "shade": round(0.75 * ((accuracy[row, column] - low) / max(high - low, 1e-9)) ** 3, 3),
                    "chosen": alpha == selection.alpha and beta == selection.beta,
                }
                for row, alpha in enumerate(grid.alphas)
            ],
        }
        for column, beta in enumerate(grid.betas)
    ]
    return {
        "n": selection.n_selection_labels,
        "metric": METRICS[selection.metric],
        "alphas": grid.alphas,
        "lines": lines,
    }


def confusion_table(opened: RunDirectory, bench: dict[str, Any] | None) -> dict[str, Any] | None:
    """The confusion matrix on test: of the benched file (the last, which is the default), else of the run."""
    if bench and bench["accuracy"]["rows"]:
        row = bench["accuracy"]["rows"][-1]
        if row["confusion"] is None:
            return None
        matrix, classes = np.array(row["confusion"]), [entry["class"] for entry in row["per_class"]]
        caption = f"Test images through the {row['precision']} ONNX file"
    elif opened.test and len(opened.run.classes) <= MOST_CONFUSION_CLASSES:
        classes, test, selection = opened.run.labels, opened.test, opened.selection
        answers = dho_probs(test.ce_logits, test.kd_logits, selection.alpha, selection.beta).argmax(-1)
        matrix = confusion_matrix(test.labels, answers, len(classes))
        caption = "Test images through the student in torch"
    else:
        return None
    shades = (matrix / np.maximum(matrix.sum(1, keepdims=True), 1)).round(3)
    lines = [
        {
            "name": classes[i],
            "cells": [
                {"count": int(matrix[i, j]), "shade": 0.75 * float(shades[i, j]), "right": i == j}
                for j in range(len(classes))
            ],
        }
        for i in range(len(classes))
    ]
    return {"caption": caption, "classes": classes, "lines": lines}


def method_lines(summary: Run, selection: Selection, bench: dict[str, Any] | None) -> list[str]:
    """How the numbers came about."""
    training = summary.training
    lines = [f"alpha, beta: {selection_sentence(selection, summary.method)}."]
    if selection.label_free:
        lines.append(f"{label_free_sentence(selection.label_free)}.")
        lines += [f"Warning: {warning}." for warning in selection.label_free.warnings]
    if training:
        lines.append(
            f"Training: {training.epochs} epochs of {training.epoch_steps} steps, "
            f"{training.batch_labelled} labelled and {training.batch_unlabelled} unlabelled images per step, "
            f"AdamW {training.learning_rate:g}, {training.views} teacher views per image, "
            f"seed {training.seed}; the last weights are kept."
        )
    lines += [f"Note: {note}." for note in summary.notes]
    if bench:
        lines += bench["method"]
        lines += sorted({f"{row['subject']}: {row['emulated']}." for row in bench["latency"] if row["emulated"]})
        lines += [
            f"{device_ledger_sentence(row['subject'], row, ledger['images'])}."
            for ledger in bench["ledgers"]
            for row in ledger["rows"]
        ]
        lines += [f"{golden_sentence(golden)}." for golden in bench["golden"]]
    versions = bench["environment"] if bench else summary.environment
    lines.append("Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".")
    return lines


def comparison_caption(rows: list[dict[str, Any]]) -> str:
    """What the chart of heads and folds shows."""
    if not rows:
        return ""
    apart = " Where their agreement is high, a paired comparison tells more than these intervals (see Fold above)."
    return f"Every way to answer on the same {rows[0]['n']} validation images; the exported one in orange.{apart}"

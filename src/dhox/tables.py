"""What the commands print: plain values to rich tables (user text is escaped)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from dhox.console import console, say
from dhox.doctor import Finding
from dhox.heads import FIXED_ALPHA, FIXED_BETA

STAGES = {
    "teacher": "teacher, zero-shot",
    "labels_only": "labels only",
    "student": "student",
    "ce_head": "CE head",
    "kd_head": "KD head",
    "dho_fixed": f"DHO, fixed ({FIXED_ALPHA}, {FIXED_BETA})",
    "dho": "DHO",
    "exact": "exact",
    "linear_inference_weights": "linear, untuned",
    "linear_tuned": "linear, tuned",
    "two_head_torch": "two heads, torch",
    "folded_torch": "folded, torch",
    "torch": "torch",
    "onnx_fp32": "ONNX fp32",
    "onnx_fp16": "ONNX fp16",
}


METRICS = {"accuracy": "Accuracy", "balanced": "Balanced accuracy", "macro-f1": "Macro-F1"}


def percent(row: dict[str, Any]) -> str:
    """Accuracy and its 95 % interval."""
    low, high = row["interval"]
    return f"{100 * row['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def print_distill(run: Path, summary: dict[str, Any], selection: dict[str, Any]) -> None:
    """Sets, notes, selection and test accuracies of a run."""
    sets = summary["sets"]
    say(
        f"{run}: {sets['n_labelled']} labelled, {sets['n_unlabelled']} unlabelled, {sets['n_validation']} validation, "
        f"{sets['n_test']} test images; {len(summary['classes'])} classes"
    )
    for note in summary["notes"]:
        say(f"Note: {note}.")
    say(f"alpha, beta: {selection_sentence(selection, summary['method'])}")
    if summary["test"]:
        table = Table("test", "accuracy (95 % interval)", title=f"{summary['method']}, {summary['student']['name']}")
        for row in summary["test"]:
            table.add_row(STAGES[row["stage"]], percent(row))
        console.print(table)


def selection_sentence(selection: dict[str, Any], method: str) -> str:
    """How alpha and beta were chosen, with the number of labels used for it."""
    if method != "dho":
        return f"none, {method} has one head"
    if selection["source"] == "imported":
        return f"fixed at ({selection['alpha']}, {selection['beta']}) when the checkpoint was imported"
    if not selection["searched"]:
        return (
            f"fixed at ({selection['alpha']}, {selection['beta']}): {selection['n_validation']} validation labels, "
            f"and searching needs {selection['fewest_images']}"
        )
    by = "" if selection["metric"] == "accuracy" else f" by {METRICS[selection['metric']].lower()}"
    source = {"val": "the val split", "held-out": "held-out labels"}[selection["source"]]
    return (
        f"({selection['alpha']}, {selection['beta']}), chosen{by} with {selection['n_selection_labels']} labels of "
        f"{source} ({selection['n_validation']} in all)"
    )


def print_export(export: Path, manifest: dict[str, Any], ledger: dict[str, Any]) -> None:
    """The fold with its evidence, the checks and the ledger."""
    if manifest["comparison"]:
        n = manifest["comparison"][0]["n"]
        title = f"Heads and folds, {n} images of {ledger['images']}"
        table = Table("head", "accuracy", "as DHO", "ECE", "size", "time", title=title)
        for row in manifest["comparison"]:
            table.add_row(
                STAGES[row["stage"]], percent(row), f"{100 * row['agreement_with_dho']:.1f} %",
                f"{row['calibration_error']:.3f}", f"{row['head_parameters']:,}", f"{row['head_us']:.1f} us",
            )  # fmt: skip
        console.print(table)
    say(f"Fold: {fold_sentence(manifest)}")
    if ledger["rows"]:
        table = Table("stage", "accuracy (95 % interval)", "same label as torch", title=f"Ledger, {ledger['images']}")
        for row in ledger["rows"]:
            table.add_row(STAGES[row["stage"]], percent(row), f"{100 * row['agreement']:.1f} %")
        console.print(table)
    for check in manifest["checks"]:
        say(
            f"{check['precision']} against torch ({check['runner']}): {check['n']} images, "
            f"{100 * check['agreement']:.1f} % same label, largest difference "
            f"{check['largest_difference']:.1e} (allowed {check['tolerance']:g})"
        )
    for entry in manifest["artefacts"]:
        default = ", default" if entry["precision"] == manifest["default"] else ""
        say(f"{export / entry['file']}: {entry['bytes'] / 1e6:.2f} MB{default}")


def fold_sentence(manifest: dict[str, Any]) -> str:
    """The chosen rule and why."""
    fold, evidence = manifest["fold"], manifest["evidence"]
    if fold["rule"] == "single":
        return "single: this student has one head."
    if fold["rule"] == "heads":
        return "none: both heads are kept (--keep-heads)."
    proof = "no validation labels judge the linear fold"
    if evidence:
        proof = (
            f"linear minus DHO inference on {evidence['n']} validation images ({evidence['images']}): "
            f"{evidence['difference']:+.1f} points, one-sided 95 % lower bound {evidence['lower_bound']:+.1f}, "
            f"allowed -{evidence['tolerance']:g}"
        )
    if fold["rule"] == "exact":
        why = "asked for" if manifest["fold_asked"] == "exact" else "not enough evidence for linear"
        return f"exact, {why} ({proof})."
    why = "asked for" if manifest["fold_asked"] == "linear" else "enough evidence"
    r = "infinite (KD head alone)" if fold["r"] is None else f"{fold['r']:.3g}"
    return f"linear, {why}, r = {r}, tuned on {fold['tuned_on']} ({proof})."


def print_bench(bench: Path, content: dict[str, Any]) -> None:
    """One table: a row per model and batch size."""
    card = content["device"]
    board = f", {card['jetson']['model']}" if card["jetson"] else ""
    say(f"{card['host']}: {card['cpu']}, {card['cpu_cores']} cores{board}")
    accuracies = {row["precision"]: row for row in content["accuracy"]["rows"]}
    runner = content["latency"][0]
    title = f"Latency per call in ms, {runner['runner']} {runner['provider']}"
    table = Table("model", "batch", "p50", "p90", "p99", "images/s", "test accuracy", title=title)
    for row in content["latency"]:
        ms = row["latency_ms"]
        times = [f"{ms[p]:.3f}" for p in ("p50", "p90", "p99")] + [f"{row['images_per_s']:,.0f}"]
        if row["emulated"]:
            times = ["emulated", "-", "-", "-"]
        accuracy = accuracies.get(row["precision"])
        table.add_row(row["precision"], str(row["batch"]), *times, percent(accuracy) if accuracy else "not run")
    console.print(table)
    if content["accuracy"]["note"]:
        say(f"Accuracy {content['accuracy']['note']}")
    for golden in content["golden"]:
        say(golden_sentence(golden))
    for reason in sorted({row["emulated"] for row in content["latency"] if row["emulated"]}):
        say(f"Emulated: {reason} (raw samples are in {bench}/samples.npz).")
    say(f"{bench}/bench.json")


def golden_sentence(golden: dict[str, Any]) -> str:
    """What a golden check found."""
    word = "passed" if golden["passed"] else "FAILED"
    difference = golden["largest_difference"]
    return (
        f"Golden outputs, {golden['artefact']}: {word}, {golden['n']} images, largest difference of a probability "
        + ("not finite" if difference is None else f"{difference:.1e}")
    )


def print_predictions(names: list[str], classes: list[str], probs: list[np.ndarray], top: int, as_json: bool) -> None:
    """The `top` classes of each image."""
    best = [
        [{"class": classes[i], "probability": round(float(row[i]), 6)} for i in np.argsort(-row, kind="stable")[:top]]
        for row in probs
    ]
    if as_json:
        answers = [{"path": name, "top": entries} for name, entries in zip(names, best, strict=True)]
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    table = Table("image", *[f"{rank}." for rank in range(1, len(best[0]) + 1)])
    for name, entries in zip(names, best, strict=True):
        table.add_row(
            escape(name), *[f"{escape(entry['class'])} {100 * entry['probability']:.1f} %" for entry in entries]
        )
    console.print(table)


def print_doctor(findings: list[Finding], as_json: bool) -> None:
    """What works here, and what to do for the rest."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    table = Table("part", "works", "found", "to get it")
    for finding in findings:
        mark = "[green]yes[/green]" if finding.works else "[yellow]no[/yellow]"
        table.add_row(
            *[escape(finding.what), mark, escape(finding.found), "" if finding.works else escape(finding.advice)]
        )
    console.print(table)

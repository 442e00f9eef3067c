"""What the commands print: plain values to rich tables (user text is escaped)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from dhox.artefacts.common import Accuracy
from dhox.artefacts.comparison import Comparison, MeanInterval
from dhox.artefacts.run import Run
from dhox.artefacts.selection import Evidence, LabelFree, Selection
from dhox.console import console, say
from dhox.doctor.backends import Finding
from dhox.evidence.dho_inference import FIXED_ALPHA, FIXED_BETA

if TYPE_CHECKING:  # it imports torch
    from dhox.distill.dry_run import Plan

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
    "linear_plain": "linear, |z| replaced",
    "two_head_torch": "two heads, torch",
    "folded_torch": "folded, torch",
    "torch": "torch",
    "onnx_fp32": "ONNX fp32",
    "onnx_fp16": "ONNX fp16",
    "onnx_int8": "ONNX int8",
}


TABLE_WIDTH = 98  # columns of a table that must fit a terminal of 100
FEWEST_RECOGNISED = 0.5  # share of altered copies, below which a count of near-copies means little
METRICS = {"accuracy": "Accuracy", "balanced": "Balanced accuracy", "macro-f1": "Macro-F1"}


def percent(row: dict[str, Any]) -> str:
    """Accuracy and its 95 % interval."""
    low, high = row["interval"]
    return f"{100 * row['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def accuracy_text(row: Accuracy) -> str:
    """Accuracy and its 95 % interval."""
    return f"{100 * row.accuracy:.1f} % ({100 * row.interval[0]:.1f}-{100 * row.interval[1]:.1f})"


def print_distill(run: Path, summary: Run, selection: Selection) -> None:
    """Sets, notes, selection and test accuracies of a run."""
    sets = summary.sets
    say(
        f"{run}: {sets.n_labelled} labelled, {sets.n_unlabelled} unlabelled, {sets.n_validation} validation, "
        f"{sets.n_test} test images; {len(summary.classes)} classes"
    )
    for note in summary.notes:
        say(f"Note: {note}.")
    say(f"alpha, beta: {selection_sentence(selection, summary.method)}")
    if selection.label_free:
        say(label_free_sentence(selection.label_free))
        for warning in selection.label_free.warnings:
            say(f"Warning: {warning}.")
    if summary.test:
        table = Table("test", "accuracy (95 % interval)", title=f"{summary.method}, {summary.student.name}")
        for row in summary.test:
            table.add_row(STAGES[row.stage], accuracy_text(row))
        console.print(table)


def print_comparison(out: Path, content: Comparison) -> None:
    """Methods and stages over seeds: accuracy on test, mean and interval."""
    seeds, n = content.seeds, content.n_test
    title = f"{n} test images, {seeds} seed{'s' * (seeds > 1)}, 95 % intervals over seeds"
    table = Table("method", "accuracy, %", "each seed", "minus dho, points", title=title)
    parts = {"ce_head": ", CE head", "kd_head": ", KD head", "dho_fixed": ", fixed"}
    for row in content.rows:
        name = row.method + parts.get(row.stage, "")
        each = " ".join(f"{100 * value:.1f}" for value in row.accuracies)
        table.add_row(name, mean_text(row), each, mean_text(row.minus_dho, "+") if row.minus_dho else "")
    console.print(table)
    say(f"{out}/comparison.json")


def mean_text(row: MeanInterval, sign: str = "") -> str:
    """A mean and its symmetric interval in percent."""
    text = f"{100 * row.mean:{sign}.1f}"
    return text if row.interval is None else f"{text} ± {100 * (row.interval[1] - row.mean):.1f}"


def print_plan(plan: Plan) -> None:
    """What a training would cost."""
    table = Table("part", "amount", "time", title=f"Dry run on {plan.device}, {plan.processes} process(es)")
    table.add_row("check, decode", f"{plan.n_training:,} + {plan.n_whole:,} images", duration(plan.decode_s))
    if plan.teacher is not None:
        of = plan.teacher
        passes = f"{of.passes:,} at {of.images_per_s:,.0f}/s"
        table.add_row("teacher passes", passes, duration(of.passes / of.images_per_s))
        table.add_row("teacher cache", size_text(of.cache_bytes), "")
    if plan.packing is not None:
        side = plan.packing.side
        packed = f"{size_text(plan.packing.bytes)} at {side} px" if side else "none"
        table.add_row("packed images", packed, duration(plan.packing.seconds))
    if plan.training is not None:
        steps = sum(steps.total for steps in plan.training.steps)
        rate = f"{steps:,} steps, {plan.training.images_per_s:,.0f} images/s"
        table.add_row("training", rate, duration(plan.training.seconds))
    table.add_row("peak memory", size_text(plan.memory_bytes), "")
    table.add_row("free on disk", size_text(plan.free_bytes), "")
    console.print(table)
    say("Rates are measured here on random pixels; what a cache holds already is not subtracted. Nothing was written.")
    need = (plan.teacher.cache_bytes if plan.teacher else 0) + (plan.packing.bytes if plan.packing else 0)
    if need > plan.free_bytes:
        say(f"The disk is too small: {size_text(need)} are needed. Lower --views or --packed-size, or choose --cache.")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_text(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def print_caches(found: list[Any]) -> None:
    """Cache directories: what they hold, how much, and what is damaged."""
    table = Table("directory", "rows", "images", "row", "size", "state")
    for entry in found:
        state = "[green]whole[/green]" if not entry.damaged else f"[red]{len(entry.damaged)} files damaged[/red]"
        about = ", ".join(str(value) for value in entry.about.values())
        rows = f"{entry.rows}, {about}" if about else entry.rows
        shape = " x ".join(str(side) for side in entry.shape)
        table.add_row(
            escape(str(entry.folder)), escape(rows), f"{entry.images:,}", shape, size_text(entry.bytes), state
        )
    console.print(table)
    for entry in found:
        for name, reason in sorted(entry.damaged.items()):
            say(f"{entry.folder / name}: {reason}")


def selection_sentence(selection: Selection, method: str) -> str:
    """How alpha and beta were chosen, with how many labels, and whether that beats the fixed point."""
    if method != "dho":
        return f"none, {method} has one head"
    if selection.source == "imported":
        return f"fixed at ({selection.alpha}, {selection.beta}) when the checkpoint was imported"
    point = f"({selection.alpha:g}, {selection.beta:g})"
    source = {"val": "the val split", "held-out": "held-out labels"}.get(selection.source, "")
    evidence = selection.evidence
    if selection.searched:
        by = "" if selection.metric == "accuracy" else f" by {METRICS[selection.metric].lower()}"
        text = (
            f"{point}, chosen{by} with {selection.n_selection_labels} labels of {source} "
            f"({selection.n_validation} in all)"
        )
    elif selection.source == "given":
        text = f"{point}, given"
    else:
        text = (
            f"fixed at {point}: {selection.n_validation} validation labels, and searching needs "
            f"{selection.fewest_images}"
        )
    if evidence and (selection.searched or selection.source == "given"):
        text += f"; {evidence_sentence(evidence)}"
    return text


def evidence_sentence(evidence: Evidence) -> str:
    """The chosen point against the fixed one, on validation images that did not choose."""
    images = {
        "cross-fitted": "validation images, cross-fitted",
        "gate-half": "validation images that did not choose",
        "validation": "validation images",
    }[evidence.images]
    verdict = "better than" if evidence.distinguishable else "not distinguishable from"
    return (
        f"{verdict} the fixed ({FIXED_ALPHA}, {FIXED_BETA}): {accuracy_text(evidence.chosen)} against "
        f"{accuracy_text(evidence.fixed)}, difference {evidence.difference:+.1f} points, one-sided 95 % lower bound "
        f"{evidence.lower_bound:+.1f}, {evidence.chosen.n} {images}"
    )


def label_free_sentence(check: LabelFree) -> str:
    """What unlabelled images say of the mixture."""
    agrees, top = check.dho_agrees_with, check.mean_top_probability
    teacher = f", the teacher on {100 * agrees.teacher:.1f} %" if agrees.teacher is not None else ""
    return (
        f"Without labels, on {check.n} unlabelled images: the heads agree on {100 * check.heads_agree:.1f} %; "
        f"the mixture agrees with the CE head on {100 * agrees.ce_head:.1f} %, the KD head on "
        f"{100 * agrees.kd_head:.1f} %{teacher}; mean top probability {top.ce_head:.2f} CE, {top.kd_head:.2f} "
        f"KD, {top.dho:.2f} mixture"
    )


def print_audit(audit: Path, content: dict[str, Any]) -> None:
    """What the teacher knows of DATA, and the advice."""
    sets = content["sets"]
    say(
        f"{audit}: {sets['labelled']} labelled, {sets['unlabelled']} unlabelled, {sets['validation']} validation, "
        f"{sets['test']} test images; {len(content['classes'])} classes"
    )
    for note in content["notes"]:
        say(f"Note: {note}.")
    if content["ways"]:
        table = Table("way", "accuracy (95 % interval)", "image tower", title=f"On {content['judges']['words']}")
        for row in content["ways"]:
            whose = "teacher" if row["model"] == content["teacher"]["name"] else escape(row["model"])
            table.add_row(f"{whose}, {row['way']}", percent(row), f"{row['parameters'] / 1e6:.1f} M")
        if len(content["templates"]) > 1:
            for title, row in (("best", content["templates"][0]), ("worst", content["templates"][-1])):
                table.add_row(f"{title} template, {escape(row['template'])}", percent(row), "")
        console.print(table)
    if content["confusions"]:
        pairs = [
            f"{' / '.join(row['classes'])} "
            f"({row['first_taken_for_second'] + row['second_taken_for_first']} of {row['n']})"
            for row in content["confusions"][:5]
        ]
        say(f"Most confused: {', '.join(pairs)}")
    for line in [*near_sentences(content["near_copies"]), unlike_sentence(content["unlike"])]:
        say(line)
    say(f"Distilling: {content['verdict']}")
    for line in content["advice"]:
        say(f"- {line}")


def near_sentences(near: dict[str, Any]) -> list[str]:
    """Copies of validation and test images among the training images, and how far to trust the count."""
    told = near["threshold"] is not None and near["recognised"] >= FEWEST_RECOGNISED
    lines = []
    for name in ("validation", "test"):
        found = near[name]
        if found["n"]:
            count = f", and {found['near']} look near-copied" if told else ""
            lines.append(
                f"{name.capitalize()}: {found['exact']} of {found['n']} are exact copies of training images{count}."
            )
    if lines and near["threshold"] is not None:
        lines.append(
            f"Near-copies: cosine above {near['threshold']:.4f}, which 99.9 % of {near['calibrated_on']} labelled "
            f"images do not reach with another class. It recognises {100 * near['recognised']:.0f} % of lightly "
            f"altered copies, and {100 * near['control']:.0f} % of the training images pass it among themselves"
            + ("." if told else ": this teacher cannot tell near-copies here, so look at the pairs in the report.")
        )
    return lines


def unlike_sentence(unlike: dict[str, Any]) -> str:
    """How many unlabelled images lie outside the labelled ones."""
    if unlike["below"] is None:
        return f"Least like any class: the lowest ranks of {unlike['n']} {unlike['of']} images are in the report."
    return (
        f"Unlike any class: {100 * unlike['below']:.1f} % of {unlike['n']} unlabelled images rank below the lowest 5 % "
        "of the labelled ones (about 5 % where both are of one kind)."
    )


def print_predictions(
    names: list[str],
    classes: list[str],
    probs: list[np.ndarray],
    top: int,
    as_json: bool,
    threshold: float | None = None,
) -> None:
    """The `top` classes of each image; "unknown" where the first is less probable than `threshold`."""
    best = [
        [{"class": classes[i], "probability": round(float(row[i]), 6)} for i in np.argsort(-row, kind="stable")[:top]]
        for row in probs
    ]
    unknown = [threshold is not None and float(row.max()) < threshold for row in probs]
    if as_json:
        answers = [
            {"path": name, "label": None if unsure else entries[0]["class"], "unknown": unsure, "top": entries}
            for name, entries, unsure in zip(names, best, unknown, strict=True)
        ]
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    table = Table("image", *["answer"] * any(unknown), *[f"{rank}." for rank in range(1, len(best[0]) + 1)])
    for name, entries, unsure in zip(names, best, unknown, strict=True):
        table.add_row(
            escape(name),
            *(["unknown"] if unsure else [""] * any(unknown)),
            *[f"{escape(entry['class'])} {100 * entry['probability']:.1f} %" for entry in entries],
        )
    console.print(table)


def print_doctor(findings: list[Finding], as_json: bool) -> None:
    """What works here, and what to do for the rest."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    table = Table("part", "works", "found, and [bold]what to do[/bold]", width=min(console.width, TABLE_WIDTH))
    table.columns[0].max_width = 34
    for finding in findings:
        mark = "[green]yes[/green]" if finding.works else "[yellow]no[/yellow]"
        advice = f"\n[bold]{escape(finding.advice)}[/bold]" if finding.advice and not finding.works else ""
        table.add_row(escape(finding.what), mark, escape(finding.found) + advice)
    console.print(table)


TARGET_ROWS = {
    "advice": "dhox there", "board": "board", "soc": "chip", "compute_capability": "compute capability",
    "memory": "memory", "jetpack": "JetPack", "l4t": "L4T", "ubuntu": "Ubuntu", "python": "Python", "cuda": "CUDA",
    "tensorrt": "TensorRT", "tensorrt_route": "TensorRT from", "strong_typing": "strongly typed networks",
    "dla_note": "DLA", "precisions": "precisions", "precisions_note": "", "onnx": "ONNX", "onnxruntime": "ONNX Runtime",
    "environment": "environment", "export": "commands that follow", "unverified": "unverified",
}  # fmt: skip


def print_target(facts: dict[str, Any], as_json: bool) -> None:
    """What a board with a JetPack can take."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("", escape(facts["target"]), width=min(console.width, TABLE_WIDTH))
    table.columns[0].max_width = 24
    for key, name in TARGET_ROWS.items():
        value = facts[key]
        lines = (
            ", ".join(value) if key in {"precisions", "l4t"} else "\n".join(value) if isinstance(value, list) else value
        )
        if lines:
            table.add_row(name, escape(lines))
    console.print(table)

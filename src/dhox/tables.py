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
from dhox.verify import Check

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
    "onnx_bf16": "ONNX bf16",
    "onnx_int8": "ONNX int8",
}


FEWEST_RECOGNISED = 0.5  # share of altered copies, below which a count of near-copies means little
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
    if selection.get("label_free"):
        say(label_free_sentence(selection["label_free"]))
        for warning in selection["label_free"]["warnings"]:
            say(f"Warning: {warning}.")
    if summary["test"]:
        table = Table("test", "accuracy (95 % interval)", title=f"{summary['method']}, {summary['student']['name']}")
        for row in summary["test"]:
            table.add_row(STAGES[row["stage"]], percent(row))
        console.print(table)


def print_comparison(out: Path, content: dict[str, Any]) -> None:
    """Methods and stages over seeds: accuracy on test, mean and interval."""
    seeds, n = content["seeds"], content["n_test"]
    title = f"{n} test images, {seeds} seed{'s' * (seeds > 1)}, 95 % intervals over seeds"
    table = Table("method", "accuracy, %", "each seed", "minus dho, points", title=title)
    parts = {"ce_head": ", CE head", "kd_head": ", KD head", "dho_fixed": ", fixed"}
    for row in content["rows"]:
        name = row["method"] + parts.get(row["stage"], "")
        each = " ".join(f"{100 * value:.1f}" for value in row["accuracies"])
        table.add_row(name, mean_text(row), each, mean_text(row["minus_dho"], "+") if "minus_dho" in row else "")
    console.print(table)
    say(f"{out}/comparison.json")


def mean_text(row: dict[str, Any], sign: str = "") -> str:
    """A mean and its symmetric interval in percent."""
    text = f"{100 * row['mean']:{sign}.1f}"
    return text if row["interval"] is None else f"{text} ± {100 * (row['interval'][1] - row['mean']):.1f}"


def print_plan(found: dict[str, Any]) -> None:
    """What a training would cost."""
    table = Table("part", "amount", "time", title=f"Dry run on {found['device']}, {found['processes']} process(es)")
    n = f"{found['n_training']:,} + {found['n_validation_and_test']:,} images"
    table.add_row("check, decode", n, duration(found["decode_s"]))
    if "teacher_passes" in found:
        passes = f"{found['teacher_passes']:,} at {found['teacher_images_per_s']:,.0f}/s"
        table.add_row("teacher passes", passes, duration(found["teacher_s"]))
        table.add_row("teacher cache", size_text(found["cache_bytes"]), "")
    if "packed_size" in found:
        side = found["packed_size"]
        packed = f"{size_text(found['packed_bytes'])} at {side} px" if side else "none"
        table.add_row("packed images", packed, duration(found["pack_s"]))
    if "training_s" in found:
        table.add_row("training", f"{found['student_images_per_s']:,.0f} images/s", duration(found["training_s"]))
    if "memory_bytes" in found:
        table.add_row("peak memory", size_text(found["memory_bytes"]), "")
    table.add_row("free on disk", size_text(found["free_bytes"]), "")
    console.print(table)
    say("Rates are measured here on random pixels; what a cache holds already is not subtracted. Nothing was written.")
    need = found.get("cache_bytes", 0) + found.get("packed_bytes", 0)
    if need > found["free_bytes"]:
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


def selection_sentence(selection: dict[str, Any], method: str) -> str:
    """How alpha and beta were chosen, with how many labels, and whether that beats the fixed point."""
    if method != "dho":
        return f"none, {method} has one head"
    if selection["source"] == "imported":
        return f"fixed at ({selection['alpha']}, {selection['beta']}) when the checkpoint was imported"
    point = f"({selection['alpha']:g}, {selection['beta']:g})"
    source = {"val": "the val split", "held-out": "held-out labels"}.get(selection["source"], "")
    evidence = selection.get("evidence")
    if selection["searched"]:
        by = "" if selection["metric"] == "accuracy" else f" by {METRICS[selection['metric']].lower()}"
        text = (
            f"{point}, chosen{by} with {selection['n_selection_labels']} labels of {source} "
            f"({selection['n_validation']} in all)"
        )
    elif selection["source"] == "given":
        text = f"{point}, given"
    else:
        text = (
            f"fixed at {point}: {selection['n_validation']} validation labels, and searching needs "
            f"{selection['fewest_images']}"
        )
    if evidence and (selection["searched"] or selection["source"] == "given"):
        text += f"; {evidence_sentence(evidence)}"
    return text


def evidence_sentence(evidence: dict[str, Any]) -> str:
    """The chosen point against the fixed one, on validation images that did not choose."""
    images = {
        "cross-fitted": "validation images, cross-fitted",
        "gate-half": "validation images that did not choose",
        "validation": "validation images",
    }[evidence["images"]]
    verdict = "better than" if evidence["distinguishable"] else "not distinguishable from"
    return (
        f"{verdict} the fixed ({FIXED_ALPHA}, {FIXED_BETA}): {percent(evidence['chosen'])} against "
        f"{percent(evidence['fixed'])}, difference {evidence['difference']:+.1f} points, one-sided 95 % lower bound "
        f"{evidence['lower_bound']:+.1f}, {evidence['chosen']['n']} {images}"
    )


def label_free_sentence(check: dict[str, Any]) -> str:
    """What unlabelled images say of the mixture."""
    agrees, top = check["dho_agrees_with"], check["mean_top_probability"]
    teacher = f", the teacher on {100 * agrees['teacher']:.1f} %" if "teacher" in agrees else ""
    return (
        f"Without labels, on {check['n']} unlabelled images: the heads agree on {100 * check['heads_agree']:.1f} %; "
        f"the mixture agrees with the CE head on {100 * agrees['ce_head']:.1f} %, the KD head on "
        f"{100 * agrees['kd_head']:.1f} %{teacher}; mean top probability {top['ce_head']:.2f} CE, {top['kd_head']:.2f} "
        f"KD, {top['dho']:.2f} mixture"
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
        print_ledger(ledger)
    else:
        say(f"Ledger {ledger['note']}.")
    for check in manifest["checks"]:
        allowed = "judged by accuracy" if check["tolerance"] is None else f"allowed {check['tolerance']:g}"
        say(
            f"{check['precision']} against {check.get('against', 'torch')} ({check['runner']}): {check['n']} images, "
            f"{100 * check['agreement']:.1f} % same label, largest difference {check['largest_difference']:.1e} "
            f"({allowed})"
        )
    for line in precision_lines(manifest):
        say(line)
    for entry in manifest["artefacts"]:
        default = ", default" if entry["precision"] == manifest["default"] else ""
        say(f"{export / entry['file']}: {entry['bytes'] / 1e6:.2f} MB{default}")


def precision_lines(manifest: dict[str, Any]) -> list[str]:
    """How each precision came about, where the graphs run, and when the answer is unknown."""
    lines = []
    for entry in manifest["artefacts"]:
        if entry["conversion"]:
            when = "before retuning, " if entry["conversion"].get("before_retuning") else ""
            lines.append(f"{entry['precision']}: {when}{conversion_sentence(entry['precision'], entry['conversion'])}.")
    placements = {entry["precision"]: entry["placement"] for entry in manifest["artefacts"]}
    if all(isinstance(placement, str) for placement in placements.values()):
        where = next(iter(placements.values()))
    else:
        where = ", ".join(f"{precision} {placement_text(placement)}" for precision, placement in placements.items())
    lines.append(f"No node of any file computes with the batch size. Placement on CUDA: {where}.")
    if manifest["reject"]:
        lines.append(f"{reject_sentence(manifest['reject'])}.")
    return lines


def placement_text(placement: dict[str, int] | str) -> str:
    """Nodes by provider, or why they are not known."""
    if isinstance(placement, str):
        return placement
    return " and ".join(f"{count} nodes on {provider}" for provider, count in placement.items())


def conversion_sentence(precision: str, found: dict[str, Any]) -> str:
    """What a precision conversion did: the share that it reached, and what stayed behind and why."""
    if precision == "int8":
        word = "gained" if found["drop"] < 0 else "lost"
        unit = f"points of top-1 {word}" if found["labelled"] else "% of the answers differ"
        text = (
            f"{len(found['quantised'])} layers, {100 * found['share']:.0f} % of the multiply-adds; ranges "
            f"({found['method']}) of {found['n_calibration']} images; {abs(found['drop']):.1f} {unit} "
            f"against fp32 on {found['n_judge']} images (allowed {found['max_drop']:g})"
        )
        if found["returned"]:
            names = ", ".join(entry["node"] for entry in found["returned"])
            text += f"; back to fp16, the most damaging first: {names}"
        return text + (f". {found['advice'].rstrip('.')}" if found["advice"] else "")
    measured = [entry for entry in found["kept"] if not entry["always"]]
    text = f"{100 * found['share']:.0f} % of convolutions and matrix products"
    if measured:
        text += (
            f"; {len(measured)} nodes stay fp32 by what {found['n']} images show, first {measured[0]['node']} "
            f"({measured[0]['why']})"
        )
    return text


def reject_sentence(reject: dict[str, Any]) -> str:
    """What the reject threshold costs and brings."""
    low, high = reject["coverage_interval"]
    return (
        f"Below a probability of {reject['threshold']:.3f} the answer is unknown: {100 * reject['coverage']:.1f} % "
        f"({100 * low:.1f}-{100 * high:.1f}) of {reject['n']} validation images ({reject['images']}) are answered, "
        f"with accuracy {percent(reject['answered'])}, all of them with {percent(reject['all'])}"
    )


def print_ledger(ledger: dict[str, Any]) -> None:
    """Accuracy stage by stage, each against the stage before."""
    n = ledger["rows"][0]["n"]
    title = f"Ledger, {n} images of {ledger['images']};\nsame label, gained and lost against the stage before"
    table = Table("stage", "accuracy", "ECE", "same", "+ -", "McNemar p", title=title)
    for row in ledger["rows"]:
        against = ["", "", ""]
        if row["agreement"] is not None:
            against = [f"{100 * row['agreement']:.1f} %", f"+{row['gained']} -{row['lost']}", f"{row['mcnemar_p']:.2g}"]
        table.add_row(STAGES[row["stage"]], percent(row), error_text(row["calibration_error"]), *against)
    console.print(table)
    say(f"{loss_sentence(ledger)}.")


def error_text(calibration_error: float | None) -> str:
    """A calibration error; none where answers are not finite."""
    return "-" if calibration_error is None else f"{calibration_error:.3f}"


def loss_sentence(ledger: dict[str, Any]) -> str:
    """Which stage lost accuracy first, and which lost more after it."""
    texts = [
        f"{STAGES[loss['stage']]} ({loss['points']:+.1f} points, McNemar p = {loss['mcnemar_p']:.2g}, "
        f"{'beyond chance' if loss['beyond_chance'] else 'which may be chance'})"
        for loss in ledger["losses"]
    ]
    return f"First stage that lost accuracy: {'; then '.join(texts)}" if texts else "No stage lost accuracy"


def fold_sentence(manifest: dict[str, Any]) -> str:
    """The chosen rule and why."""
    fold, evidence = manifest["fold"], manifest["evidence"]
    if fold["rule"] == "single":
        return "single: this student has one head."
    if fold["rule"] == "heads":
        return "none: both heads are kept (--keep-heads)."
    note = f" Note: {manifest['fold_note']}." if manifest.get("fold_note") else ""
    proof = "no validation labels judge the linear fold"
    if evidence:
        proof = (
            f"linear minus DHO inference on {evidence['n']} validation images ({evidence['images']}): "
            f"{evidence['difference']:+.1f} points, one-sided 95 % lower bound {evidence['lower_bound']:+.1f}, "
            f"allowed -{evidence['tolerance']:g}"
        )
    if fold["rule"] == "exact":
        why = "asked for" if manifest["fold_asked"] == "exact" else "not enough evidence for linear"
        return f"exact, {why} ({proof}).{note}"
    why = "asked for" if manifest["fold_asked"] == "linear" else "enough evidence"
    if manifest.get("retuned_from"):
        why = "the rule of the retuned export"
    r = "infinite (KD head alone)" if fold["r"] is None else f"{fold['r']:.3g}"
    tuned = "given" if fold["tuned_on"] == "given" else f"tuned on {fold['tuned_on']}"
    if fold.get("z_norm"):
        tuned += f", |z| replaced by its harmonic mean {fold['z_norm']:.4g}"
    return f"linear, {why}, r = {r}, {tuned} ({proof}).{note}"


def retuned_sentence(manifest: dict[str, Any]) -> str:
    """What a retuned export changed, and what it left out."""
    numbers = ("alpha", "beta", "r", "tau")
    before, after = manifest["retuned_from"]["fold"], manifest["fold"]
    changed = [
        f"{name} {number_text(before[name])} -> {number_text(after[name])}"
        for name in numbers
        if before[name] != after[name]
    ]
    left_out = manifest["retuned_from"]["left_out"]
    sentence = f"Changed: {', '.join(changed) or 'no number'}."
    if left_out:
        sentence += f" Left out, since it holds the old head: {', '.join(left_out)}."
    return sentence


def number_text(value: float | None) -> str:
    """A fold's number; None is an infinite r or no tau."""
    return "-" if value is None else f"{value:.4g}"


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
    for line in content["not_run"]:
        say(f"{line}.")
    if content["accuracy"]["note"]:
        say(f"Accuracy {content['accuracy']['note']}")
    for row in content["ledger"]["rows"]:
        say(f"{device_ledger_sentence(row, content['ledger']['images'])}.")
    for golden in content["golden"]:
        say(golden_sentence(golden))
    for reason in sorted({row["emulated"] for row in content["latency"] if row["emulated"]}):
        say(f"Emulated: {reason} (raw samples are in {bench}/samples.npz).")
    say(f"{bench}/bench.json")


def device_ledger_sentence(row: dict[str, Any], images: str) -> str:
    """One file's row of the export's ledger, on the device of the bench."""
    text = f"Ledger on this device, {STAGES[row['stage']]}: {percent(row)} on {row['n']} images of {images}"
    if row["agreement"] is None:
        return text
    return (
        f"{text}; {100 * row['agreement']:.1f} % same label as when exported (+{row['gained']} -{row['lost']}, McNemar "
        f"p = {row['mcnemar_p']:.2g})"
    )


def golden_sentence(golden: dict[str, Any]) -> str:
    """What a golden check found."""
    word = "passed" if golden["passed"] else "FAILED"
    difference = golden["largest_difference"]
    return (
        f"Golden outputs, {golden['artefact']}: {word}, {golden['n']} images, largest difference of a probability "
        + ("not finite" if difference is None else f"{difference:.1e}")
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
    table = Table("part", "works", "found", "to get it")
    for finding in findings:
        mark = "[green]yes[/green]" if finding.works else "[yellow]no[/yellow]"
        table.add_row(
            *[escape(finding.what), mark, escape(finding.found), "" if finding.works else escape(finding.advice)]
        )
    console.print(table)


def print_verify(rows: list[Check], as_json: bool) -> None:
    """What was checked of an export, and what was found."""
    if as_json:
        passed = all(row.passed is not False for row in rows)
        content = {"schema": "dhox.verify/1", "passed": passed, "checks": [asdict(row) for row in rows]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    marks = {True: "[green]passed[/green]", False: "[red]FAILED[/red]", None: "[yellow]not run[/yellow]"}
    table = Table("file", "check", "result", "found")
    for row in rows:
        table.add_row(escape(row.file), row.what, marks[row.passed], escape(row.found))
    console.print(table)

"""What export, retune and verify print: plain values to rich tables (user text is escaped)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dhox.console import console, say
from dhox.models.verify import Check
from dhox.reports.tables import STAGES, percent


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
            f"{check['precision']} against {check['against']} ({check['runner']}): {check['n']} images, "
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

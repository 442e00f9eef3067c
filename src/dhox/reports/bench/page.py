"""report.html of a bench directory: what was measured, how, and on what, on one page without external resources."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, EXPORT_FILE, read_json, read_npz, sha256, write_bytes
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.record import schema_of
from dhox.errors import DhoxError, require
from dhox.reports.bench.charts import (
    batch_chart,
    calibration_chart,
    distribution_chart,
    drift_chart,
    measured,
    pareto_chart,
    power_chart,
    told_boundary,
    told_rows,
)
from dhox.reports.bench.text import (
    MARKS,
    asked_sentence,
    card_lines,
    count_text,
    cross_check_sentence,
    device_sentence,
    energy_lines,
    facts_of,
    golden_sentence,
    interval_lines,
    marks,
    milliseconds,
    milliseconds_interval,
    not_as_asked,
    not_measured,
    pair_name,
    row_name,
    several_runners,
    speed,
    told_comparisons,
)
from dhox.reports.export.tables import loss_sentence
from dhox.reports.tables import STAGES, percent, size_text

MOST_CLASSES = 40  # rows of the table of classes, the weakest first
MOST_COLUMNS = 6  # models in the table of classes
BINS = 15  # of the calibration, as the calibration error has


def write_bench_page(directory: Path) -> Path:
    """Write DIRECTORY/report.html from its bench.json, samples.npz and, where they are there, predictions.csv and the
    export's ledger. Raises DhoxError for files that dhox bench did not write."""
    jinja2 = require("jinja2", "report")
    content = read_json(directory / BENCH_FILE, BENCH_SCHEMA)
    if "latency" not in content:
        raise DhoxError(f"{directory / BENCH_FILE} lacks what a bench holds.", "Measure again with dhox bench.")
    samples = read_npz(directory / "samples.npz") if (directory / "samples.npz").exists() else {}
    drawn = [row for row in told_rows(content) if row["samples"] in samples]
    page = {
        "title": f"Bench on {content['device']['host']}",
        "subtitle": f"{device_sentence(content)}; {content['finished_at'][:10]}",
        "interrupted": content["status"] == "interrupted",
        "table": main_table(content),
        "comparisons": comparison_table(content),
        "streams": stream_lines(content),
        "findings": not_as_asked(content),
        "distribution": distribution_chart(content, samples, drawn) if drawn else None,
        "distribution_caption": distribution_caption(content, drawn),
        "drift": drift_chart(content, samples, drawn) if drawn else None,
        "batches": batch_chart(content),
        "batches_caption": f"Timing scope {told_boundary(content)}. Medians of all calls; images/s of the same calls.",
        "power": power_chart(content, samples),
        "energy": energy_rows(content),
        "rails": any(len(row["rails_w"]) > 1 for row in content["energy"]["rows"]),
        "energy_lines": energy_lines(content),
        "accuracy": accuracy_lines(content),
        "accuracy_caption": accuracy_caption(content),
        "ledgers": ledger_tables(content),
        "golden": [golden_sentence(row) for row in content["golden"]],
        "calibration": calibration_chart(content, calibration_bins(directory / "predictions.csv")),
        "classes": class_table(content),
        "confusions": confusion_tables(content),
        "pareto": pareto_chart(content),
        "pareto_caption": f"Top-1 on the {content['accuracy']['split']} split against the median of one call, scope "
        f"{told_boundary(content)}, smallest batch; 95 % intervals. Filled, on the line: nothing is faster and better.",
        "method": [*content["method"], asked_sentence(content), *interval_lines(content)],
        "checks": [cross_check_sentence(content, row) for row in content["cross_checks"]],
        "card": card_lines(content),
        "missing": not_measured(content),
        "subjects": subject_lines(content),
        "runners": runner_lines(content),
        "versions": ", ".join(f"{name} {value}" for name, value in content["environment"].items()),
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["joints"] = joints
    template = environment.from_string((Path(__file__).parent / "bench.html.j2").read_text(encoding="utf-8"))
    write_bytes(directory / "report.html", template.render(page).encode())
    return directory / "report.html"


def joints(name: str) -> Any:
    """A name as HTML, escaped, with places to break before its parts."""
    markupsafe = require("markupsafe", "report")
    text = str(markupsafe.escape(name))
    return markupsafe.Markup(re.sub(r"(?=[/:])|(?<=_)", "<wbr>", text))


def main_table(content: dict[str, Any]) -> dict[str, Any]:
    """The first table: a row per subject, runner, batch and scope, in groups that may be compared."""
    energy = {(row["subject"], row["runner"], row["batch"], row["scope"]): row for row in content["energy"]["rows"]}
    correct = {(row["subject"], row["runner"]): row for row in content["accuracy"]["rows"]}
    scopes = content["settings"]["scopes"]
    rows = sorted(content["latency"], key=lambda row: (scopes.index(row["scope"]), row["batch"]))
    lines, before = [], None
    for row in rows:
        pair, group, ms = (row["subject"], row["runner"]), (row["scope"], row["batch"]), row["latency_ms"]
        spent, right = energy.get((*pair, row["batch"], row["scope"])), correct.get(pair)
        found = marks(content, row)
        lines.append(
            {
                "new_group": before not in (None, group),
                "subject": row["subject"], "runner": row["runner"], "batch": row["batch"], "scope": row["scope"],
                "p50": "emulated" if row["emulated"] else milliseconds_interval(ms["p50"], row["p50_interval"]),
                "p99": "" if row["emulated"] else milliseconds_interval(ms["p99"], row["p99_interval"]),
                "max": "" if row["emulated"] else milliseconds(ms["max"]),
                "images_per_s": "" if row["emulated"] else count_text(row["images_per_s"]),
                "mj_per_image": count_text(spent["mj_per_image"]) if spent else "",
                "accuracy": percent(right).replace(" %", "") if right else "",
                "marks": found, "meaning": "; ".join(MARKS[mark] for mark in found),
            }
        )  # fmt: skip
        before = group
    used = "".join(line["marks"] for line in lines)
    return {
        "rows": lines,
        "runners": several_runners(content),
        "runner": rows[0]["runner"] if rows else "",
        "energy": bool(energy),
        "accuracy": bool(correct),
        "legend": [f"{mark}: {meaning}" for mark, meaning in MARKS.items() if mark in used],
    }


def comparison_table(content: dict[str, Any]) -> dict[str, Any]:
    """Ratios of speed: a line per pair and batch, a cell per scope."""
    rows = told_comparisons(content)
    scopes = [name for name in content["settings"]["scopes"] if any(row["scope"] == name for row in rows)]
    lines: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in rows:
        key = (pair_name(content, *row["subject"]), pair_name(content, *row["reference"]), row["batch"])
        verdict = "" if row["verdict"] == "faster" else f", {row['verdict']}"
        lines.setdefault(key, {})[row["scope"]] = speed(row) + verdict
    return {
        "scopes": scopes,
        "lines": [{"key": key, "cells": [cells.get(name, "") for name in scopes]} for key, cells in lines.items()],
    }


def stream_lines(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Throughput of concurrent streams, a line each."""
    return [
        {
            "name": pair_name(content, row["subject"], row["runner"]), "batch": row["batch"], "streams": row["streams"],
            "rate": count_text(row["images_per_s"]),
            "interval": "" if row["interval"] is None else " to ".join(count_text(end) for end in row["interval"]),
            "p50": milliseconds(row["p50_ms"]), "p99": "" if row["p99_ms"] is None else milliseconds(row["p99_ms"]),
        }
        for row in content["streams"]
    ]  # fmt: skip


def distribution_caption(content: dict[str, Any], drawn: list[dict[str, Any]]) -> str:
    """What the chart of distributions shows and leaves out."""
    if not drawn:
        return ""
    text = (
        f"Timing scope {drawn[0]['scope']}, batch {drawn[0]['batch']}: share of calls that took at most so long, from "
        "every raw sample; the slowest 0.1 % lie outside."
    )
    same = [row for row in measured(content) if group_of(row) == group_of(drawn[0])]
    if len(same) > len(drawn):
        text += f" The fastest {len(drawn)} of {len(same)}."
    emulated = list(dict.fromkeys(row["subject"] for row in content["latency"] if row["emulated"]))
    return text + (f" Left out, since it is emulated here: {', '.join(emulated)}." if emulated else "")


def group_of(row: dict[str, Any]) -> tuple[str, int]:
    """What rows must share to be compared."""
    return row["scope"], row["batch"]


def energy_rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Energy, a line per row."""
    return [
        {
            "name": row_name(content, row), "seconds": f"{row['seconds']:.0f}", "mean_w": f"{row['mean_w']:.1f}",
            "per_image": count_text(row["mj_per_image"]),
            "net": "" if row["net_mj_per_image"] is None else count_text(row["net_mj_per_image"]),
            "per_joule": "" if row["images_per_joule"] is None else count_text(row["images_per_joule"]),
            "per_correct": "" if row["mj_per_correct"] is None else count_text(row["mj_per_correct"]),
            "rails": ", ".join(f"{rail} {watts:.1f}" for rail, watts in row["rails_w"].items())
            if len(row["rails_w"]) > 1
            else "",
        }
        for row in content["energy"]["rows"]
    ]  # fmt: skip


def accuracy_lines(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy on the device, a line per subject and runner."""
    return [
        {
            "name": pair_name(content, row["subject"], row["runner"]), "accuracy": percent(row), "n": row["n"],
            "top5": "" if row["top5"] is None else f"{100 * row['top5']:.1f} %",
            "calibration_error": "" if row["calibration_error"] is None else f"{row['calibration_error']:.3f}",
            "nll": "" if row["nll"] is None else f"{row['nll']:.3f}",
            "reference": row["reference"],
        }
        for row in content["accuracy"]["rows"]
    ]  # fmt: skip


def accuracy_caption(content: dict[str, Any]) -> str:
    """Which images, and what the columns mean."""
    part = content["accuracy"]
    text = (
        f"{part['split'].capitalize()} split at {part['data']}; Wilson's intervals. ECE: expected calibration error. "
    )
    text += "NLL: negative log-likelihood, nats."
    if any(row["reference"] for row in part["rows"]):
        first = pair_name(content, part["rows"][0]["subject"], part["rows"][0]["runner"])
        text += f" Same label, images gained and lost, and McNemar's exact p: against {first}."
    return text


def ledger_tables(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The ledger of every export of the bench, joined with what its files answered on this device."""
    tables = []
    digests = {
        subject["export"]["path"]: subject["export"]["manifest_sha256"]
        for subject in content["subjects"]
        if subject["export"]
    }
    for here in content["ledgers"]:
        ledger = export_ledger(Path(here["export"]), digests[here["export"]])
        rows = [{**row, "name": STAGES[row["stage"]], "here": False} for row in (ledger or {"rows": []})["rows"]]
        rows += [{**row, "name": f"{row['subject']} by {row['runner']}, here", "here": True} for row in here["rows"]]
        if rows:
            tables.append(
                {
                    "export": here["export"],
                    "images": ledger["images"] if ledger else here["images"],
                    "rows": rows,
                    "loss": loss_sentence(ledger) if ledger else "The export's own rows are not on this machine",
                    "top5": any(row["top5"] is not None for row in rows),
                }
            )
    return tables


def export_ledger(export: Path, manifest_sha256: str) -> dict[str, Any] | None:
    """ledger.json of the very export that was benched; None where that is gone, was replaced or is damaged."""
    try:
        if sha256(export / EXPORT_FILE) != manifest_sha256:
            return None
        return read_json(export / "ledger.json", schema_of(Ledger))
    except (DhoxError, OSError):
        return None


def calibration_bins(predictions: Path) -> list[dict[str, Any]]:
    """Per subject and runner of predictions.csv: mean top probability and share of right answers, in BINS bins of equal
    width, the empty ones left out."""
    if not predictions.exists():
        return []
    answers: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    try:
        with predictions.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                right = row["label"] == row["predicted"]
                answers.setdefault((row["subject"], row["runner"]), []).append((float(row["probability"]), right))
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as err:
        raise DhoxError(f"{predictions} is damaged ({err!r}).", "Restore it, or delete it.") from err
    found = []
    for (subject, runner), pairs in answers.items():
        table = np.array([pair for pair in pairs if np.isfinite(pair[0])]).reshape(-1, 2)
        place = np.minimum((table[:, 0] * BINS).astype(int), BINS - 1)
        bins = [table[place == number] for number in range(BINS) if (place == number).any()]
        rows = [{"n": len(part), "confidence": part[:, 0].mean(), "accuracy": part[:, 1].mean()} for part in bins]
        found.append({"subject": subject, "runner": runner, "bins": rows})
    return found


def class_table(content: dict[str, Any]) -> dict[str, Any] | None:
    """Recall and precision per class, the weakest class of the first model first."""
    rows = content["accuracy"]["rows"][:MOST_COLUMNS]
    if not rows:
        return None
    per_class = [{entry["class"]: entry for entry in row["per_class"]} for row in rows]
    recalls = {entry["class"]: entry["recall"] for entry in rows[0]["per_class"]}
    weakest = sorted(recalls, key=lambda name: 2.0 if recalls[name] is None else recalls[name])
    return {
        "names": [pair_name(content, row["subject"], row["runner"]) for row in rows],
        "left_out": len(content["accuracy"]["rows"]) - len(rows),
        "all": len(weakest),
        "lines": [
            {
                "class": name,
                "n": per_class[0][name]["n"],
                "cells": [
                    [share_text(entry[name][key]) for key in ("recall", "precision")] if name in entry else ["", ""]
                    for entry in per_class
                ],
            }
            for name in weakest[:MOST_CLASSES]
        ],
    }


def share_text(share: float | None) -> str:
    """A share in %."""
    return "-" if share is None else f"{100 * share:.1f}"


def confusion_tables(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A confusion matrix per subject and runner that has one, with shades by the share of the true class."""
    tables = []
    for row in content["accuracy"]["rows"]:
        if row["confusion"] is None:
            continue
        matrix = np.array(row["confusion"])
        shades = 0.75 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        names = [entry["class"] for entry in row["per_class"]]
        lines = [
            {
                "name": name,
                "cells": [
                    {"count": int(matrix[i, j]), "shade": round(float(shades[i, j]), 3), "right": i == j}
                    for j in range(len(names))
                ],
            }
            for i, name in enumerate(names)
        ]
        tables.append({"name": pair_name(content, row["subject"], row["runner"]), "classes": names, "lines": lines})
    return tables


def subject_lines(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that were measured."""
    return [
        {
            "name": row["name"], "precision": row["precision"], "size": size_text(row["bytes"]),
            "input": row["input_kind"], "sha256": row["sha256"][:16], "path": row["path"],
            "contract": row["contract"],
        }
        for row in content["subjects"]
    ]  # fmt: skip


def runner_lines(content: dict[str, Any]) -> list[dict[str, Any]]:
    """How each model was run, as asked and as found."""
    lines = []
    for row in content["runners"]:
        facts = facts_of(content, row) | row
        graph = "captured" if facts.get("graph") else "not captured" if facts.get("graph_asked") else ""
        off = facts.get("nodes_off_device")
        lines.append(
            {
                "subject": row["subject"], "runner": row["runner"], "batch": row["batch"],
                "device": facts.get("provider") or facts.get("device") or "",
                "open_s": "" if facts.get("open_s") is None else f"{facts['open_s']:.2f}",
                "graph": graph, "asked": facts.get("precision_asked") or "",
                "proven": facts.get("precision_proven") or "not proven",
                "off": "not known" if off is None else off,
            }
        )  # fmt: skip
    return lines

"""sweep.html: the students of a sweep as a table and as pictures, without external resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dhox.artefacts.files import SWEEP_FILE, SWEEP_SCHEMA, read_json, write_bytes
from dhox.errors import require
from dhox.reports.run.charts import svg
from dhox.reports.sweep.tables import accuracy_cell, front_of, where


def write_sweep_page(directory: Path) -> Path:
    """Write DIRECTORY/sweep.html from DIRECTORY/sweep.json."""
    jinja2 = require("jinja2", "report")
    content = read_json(directory / SWEEP_FILE, SWEEP_SCHEMA)
    settings, rows = content["settings"], content["rows"]
    known = [row for row in rows if row["accuracy"]]
    budget = settings["budget_ms"]
    device = content["device"]
    chip = (device.get("gpu") or {"name": device["cpu"]})["name"]
    page = {
        "content": content,
        "title": "Sweep of students by latency",
        "subtitle": (
            f"{settings['precision']}, batch {settings['batch']}, scope {settings['scope']}, on "
            f"{device['host']} ({chip})"
        ),
        "front": front_of(content),
        "accuracy_cell": accuracy_cell,
        "where": where,
        "has_energy": any(row["mj_per_image"] is not None for row in rows),
        "has_accuracy": bool(known),
        "size_chart": scatter(rows, "parameters", content["front"]["parameters"], budget) if rows else None,
        "energy_chart": scatter(rows, "energy", [], budget) if any(row["mj_per_image"] for row in rows) else None,
        "accuracy_chart": scatter(known, "accuracy", content["front"]["accuracy"], budget) if known else None,
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "sweep.html.j2").read_text(encoding="utf-8"))
    write_bytes(directory / "sweep.html", template.render(page).encode())
    return directory / "sweep.html"


def scatter(rows: list[dict[str, Any]], what: str, front: list[str], budget_ms: float | None) -> Any:
    """One quantity against median latency with its 95 % interval, as SVG; a step line along the Pareto front, whose
    students have the second colour. `what`: parameters (the area of a point: size of the file), energy or accuracy."""

    def draw(axes: Any) -> None:
        ax, largest = axes[0], max(row["bytes"] for row in rows)
        for row in rows:
            x, (low, high), colour = (
                row["latency_ms"]["p50"],
                row["p50_interval"],
                "C1" if row["student"] in front else "C0",
            )
            y, error = height(row, what)
            ax.errorbar(
                x, y, xerr=[[max(0, x - low)], [max(0, high - x)]], yerr=error, fmt="none", ecolor=colour, elinewidth=1
            )
            ax.scatter([x], [y], s=20 + 180 * row["bytes"] / largest, color=colour, alpha=0.7, linewidths=0)
            ax.annotate(row["student"], (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
        steps = sorted((row["latency_ms"]["p50"], height(row, what)[0]) for row in rows if row["student"] in front)
        if len(steps) > 1:
            ax.step(*zip(*steps, strict=True), where="post", color="C1", linewidth=1, alpha=0.6)
        if budget_ms is not None:
            ax.axvline(budget_ms, color="gray", linestyle="--", linewidth=1)
            ax.annotate("budget", (budget_ms, 0.02), xycoords=("data", "axes fraction"), fontsize=8, rotation=90)
        labels = {
            "parameters": "parameters, millions", "energy": "energy, mJ per image",
            "accuracy": "accuracy, % (95 % interval)",
        }  # fmt: skip
        ax.set(xlabel="median latency, ms (95 % interval)", ylabel=labels[what], xscale="log")
        if what != "accuracy":
            ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        ax.margins(0.15)

    return svg(draw, panels=1)


def height(row: dict[str, Any], what: str) -> tuple[float, list[list[float]] | None]:
    """The quantity of a row, with its error bar."""
    if what == "parameters":
        return row["parameters"] / 1e6, None
    if what == "energy":
        return row["mj_per_image"], None
    accuracy, (low, high) = 100 * row["accuracy"]["accuracy"], row["accuracy"]["interval"]
    return accuracy, [[accuracy - 100 * low], [100 * high - accuracy]]

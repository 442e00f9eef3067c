"""What `dhox sweep` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dhox.console import console, say


def print_sweep(sweep: Path, content: dict[str, Any]) -> None:
    """One row per student, fastest first, in at most 100 columns; then the failed and what to distill."""
    settings, rows = content["settings"], content["rows"]
    sizes = {row["image_size"] for row in rows}
    title = (
        f"{settings['precision']}, batch {settings['batch']}, scope {settings['scope']}, on "
        f"{content['device']['host']}{f', {min(sizes)} px' if len(sizes) == 1 else ''}; * on the Pareto front"
    )
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.padding = (0, 1, 0, 0)
    energy = any(row["mj_per_image"] is not None for row in rows)
    accuracy = any(row["accuracy"] for row in rows)
    table.add_column("student", overflow="fold")
    columns = {
        "M par.": True, "MB": True, "memory": any(row["memory_bytes"] is not None for row in rows), "p50 ms": True,
        "95 %": True, "p99": True, "mJ": energy, "accuracy %": accuracy, "fits": settings["budget_ms"] is not None,
    }  # fmt: skip
    for name, shown in columns.items():
        if shown:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = {
            "M par.": f"{row['parameters'] / 1e6:.1f}",
            "MB": f"{row['bytes'] / 1e6:.1f}",
            "memory": "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f}",
            "p50 ms": f"{row['latency_ms']['p50']:.3g}",
            "95 %": f"{row['p50_interval'][0]:.3g}-{row['p50_interval'][1]:.3g}",
            "p99": f"{row['latency_ms']['p99']:.3g}",
            "mJ": "" if row["mj_per_image"] is None else f"{row['mj_per_image']:.3g}",
            "accuracy %": accuracy_cell(row["accuracy"]),
            "fits": "[green]yes[/green]" if row["within"] else "no",
        }
        size = "" if len(sizes) == 1 else f" {row['image_size']} px"
        mark = "*" if row["student"] in front_of(content) else ""
        table.add_row(escape(row["student"] + size + mark), *[cells[name] for name, shown in columns.items() if shown])
    console.print(table)
    for row in content["failed"]:
        say(f"Not measured: {row['student']}: {row['reason']}")
    for row in content["rows"]:
        if row["memory_note"]:
            say(f"Memory of {row['student']} not measured: {row['memory_note'].rstrip('.')}.")
    flagged = [f"{row['student']} ({', '.join(row['flags'])})" for row in rows if row["flags"]]
    if flagged:
        say(f"Flags: {'; '.join(flagged)}.")
    emulated = {row["emulated"] for row in rows if row["emulated"]}
    for sentence in sorted(emulated):
        say(f"Emulated: {sentence}.")
    if not energy:
        say(f"Energy: {content['energy']['note'] or 'not measured'}.")
    if accuracy:
        say(f"Accuracies: {'; '.join(sorted({where(row['accuracy']) for row in rows if row['accuracy']}))}.")
    for sentence in (content["choice"] or {"words": []})["words"]:
        say(sentence)
    say(f"{sweep}/sweep.json")


def front_of(content: dict[str, Any]) -> list[str]:
    """The front to mark: of accuracy where it is known, else of parameters."""
    names: list[str] = content["front"]["accuracy"] or content["front"]["parameters"]
    return names


def accuracy_cell(accuracy: dict[str, Any] | None) -> str:
    """81.2 (79.0-83.3)."""
    if accuracy is None:
        return ""
    low, high = accuracy["interval"]
    return f"{100 * accuracy['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def where(accuracy: dict[str, Any]) -> str:
    """What an accuracy was measured on and with."""
    return (
        f"{accuracy['n']:,} images of {accuracy['split']}, {accuracy['method']}, {accuracy['what']} ({accuracy['run']})"
    )

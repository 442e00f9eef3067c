"""What building engines prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dhox.console import console, say
from dhox.reports.bench.text import device_ledger_sentence


def print_engines(export: Path, sidecars: list[dict[str, Any]]) -> None:
    """One row per engine: where, for what, how precise, checked or why not."""
    table = Table("engine", "batch", "MB", "graph", "compiled", "golden check", "seconds")
    for sidecar in sidecars:
        options, proof = sidecar["options"], sidecar["engine_precision"]
        row = (
            sidecar["precision"],
            ":".join(str(options[name]) for name in ("smallest", "usual", "largest")),
            f"{sidecar['engine']['bytes'] / 1e6:.1f}",
            share(sidecar["graph_precision"], sidecar["precision"]),
            share(proof, sidecar["precision"]) if "share" in proof else "not run",
            sidecar["golden"]["status"].split(":")[0],
            f"{sidecar['build_seconds']:.1f}",
        )
        table.add_row(*map(escape, row))
    console.print(table)
    say("graph, compiled: share of the convolutions and matrix products, as parsed and as compiled.")
    for sidecar in sidecars:
        device, trt = sidecar["device"], sidecar["tensorrt"]
        where = device["gpu"] or "any GPU from compute capability 8.0 on"
        say(f"{export / 'engines' / sidecar['folder']}: for {where}, {trt['flavour']} {trt['version']}")
        for name in ("engine_precision", "golden"):
            if sidecar[name]["status"].startswith("not run"):
                say(f"{sidecar['folder']}: {name.replace('_', ' ')} {sidecar[name]['status']}")
        if row := sidecar["ledger"]["row"]:
            say(f"{device_ledger_sentence(sidecar['folder'], row, 'the ledger')}.")
        if sidecar["engine_precision"]["status"].startswith("proven for"):
            say(f"{sidecar['folder']}: {sidecar['engine_precision']['status']}; of the others the engine tells no type")
        differs = proof_differs(sidecar["engine_precision"])
        if differs:
            say(f"{sidecar['folder']}: computed in another precision than the file states: {differs}")
        if sidecar["options"]["dla"] is not None:
            say(f"{sidecar['folder']}: on the GPU, not on DLA: {', '.join(sidecar['dla_fallback']) or 'nothing'}")


def proof_differs(proof: dict[str, Any]) -> str:
    """Conv_3 fp32 -> fp16, of the first five nodes, and how many more."""
    nodes = [f"{node} {stated} -> {computed}" for node, (stated, computed) in proof.get("differs", {}).items()]
    return ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")


def share(record: dict[str, Any], precision: str) -> str:
    """100 % fp16."""
    return f"{100 * record['share']:.0f} % {precision}"

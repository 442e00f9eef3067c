"""What `dhox doctor --host` prints."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.table import Table

from dhox.console import console, say
from dhox.doctor.examine import Finding
from dhox.reports.tables import print_doctor


def print_board(content: dict[str, Any], as_json: bool) -> None:
    """What a board is (see `dhox.bench.remote.run.examine_board`), then what `dhox doctor` says there."""
    if as_json:
        print(json.dumps(content, indent=2, allow_nan=False))
        return
    probe = content["probe"]
    table = Table("on the board", "found")
    for name, found in rows(probe):
        table.add_row(escape(name), escape(found))
    console.print(table)
    if content["findings"] is None:
        say(f"dhox there: {content['note']}.")
    else:
        print_doctor([Finding(**finding) for finding in content["findings"]], False)


def rows(probe: dict[str, Any]) -> list[tuple[str, str]]:
    """The probe as (what, found)."""
    model = probe["texts"]["/proc/device-tree/model"]
    library, version = probe["libc"]
    trt, ort = probe["tensorrt"], probe["onnxruntime"]
    return [
        ("machine", f"{probe['host']}, {probe['system']} {probe['machine']}{', ' if model else ''}{model}"),
        ("Python", f"{'.'.join(map(str, probe['python']['version']))} ({probe['python']['path']})"),
        ("C library", f"{library or 'unknown'} {version}"),
        ("TensorRT", trt["found"] if trt["works"] else f"does not load: {trt['found']}"),
        ("onnxruntime of its own", ort["found"] if ort["works"] else f"none: {ort['found']}"),
        ("L4T", (probe["texts"]["/etc/nv_tegra_release"] or "none").splitlines()[0]),
        ("store of dhox", f"{probe['store']}, {probe['free_bytes'] / 1e9:,.1f} GB free"),
    ]  # fmt: skip

"""What `dhox doctor --host` prints."""

from __future__ import annotations

import json

import msgspec
from rich.markup import escape
from rich.table import Table

from dhox.artefacts.remote import Probe
from dhox.console import console, say
from dhox.doctor.board import BoardReport
from dhox.reports.tables import print_doctor


def print_board(report: BoardReport, as_json: bool) -> None:
    """What a board is, then what `dhox doctor` says there."""
    if as_json:
        print(json.dumps(msgspec.to_builtins(report), indent=2, allow_nan=False))
        return
    table = Table("on the board", "found")
    for name, found in rows(report.probe):
        table.add_row(escape(name), escape(found))
    console.print(table)
    if report.findings is None:
        say(f"dhox there: {report.note}.")
    else:
        print_doctor(report.findings, False)


def rows(probe: Probe) -> list[tuple[str, str]]:
    """The probe as (what, found)."""
    model = probe.texts["/proc/device-tree/model"]
    library, version = probe.libc
    trt, ort = probe.tensorrt, probe.onnxruntime
    return [
        ("machine", f"{probe.host}, {probe.system} {probe.machine}{', ' if model else ''}{model}"),
        ("Python", f"{'.'.join(map(str, probe.python.version))} ({probe.python.path})"),
        ("C library", f"{library or 'unknown'} {version}"),
        ("TensorRT", trt.found if trt.works else f"does not load: {trt.found}"),
        ("onnxruntime of its own", ort.found if ort.works else f"none: {ort.found}"),
        ("L4T", (probe.texts["/etc/nv_tegra_release"] or "none").splitlines()[0]),
        ("store of dhox", f"{probe.store}, {probe.free_bytes / 1e9:,.1f} GB free"),
    ]

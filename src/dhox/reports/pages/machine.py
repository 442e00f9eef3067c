"""Machines as sections: what `dhox doctor` found here, what a board is, and what a target can take."""

from __future__ import annotations

from collections.abc import Mapping

from dhox.artefacts.remote import Probe
from dhox.doctor.backends import Finding
from dhox.reports.sections import Cell, Column, Page, Section, Table, cells

TARGET_ROWS = {
    "advice": "dhox there", "board": "board", "soc": "chip", "compute_capability": "compute capability",
    "memory": "memory", "jetpack": "JetPack", "l4t": "L4T", "ubuntu": "Ubuntu", "python": "Python", "cuda": "CUDA",
    "tensorrt": "TensorRT", "tensorrt_route": "TensorRT from", "strong_typing": "strongly typed networks",
    "dla_note": "DLA", "precisions": "precisions", "precisions_note": "", "onnx": "ONNX", "onnxruntime": "ONNX Runtime",
    "environment": "environment", "export": "commands that follow", "unverified": "unverified",
}  # fmt: skip
FACTS = (Column("", "text"), Column("found", "text"))


def doctor_page(findings: list[Finding]) -> Page:
    """What works here, and what to do for the rest."""
    rows = []
    for finding in findings:
        advice = f"\n{finding.advice}" if finding.advice and not finding.works else ""
        works = Cell("yes", "good") if finding.works else Cell("no", "doubtful")
        rows.append(cells(finding.what, works, finding.found + advice))
    columns = (Column("part", "text"), Column("works"), Column("found, and what to do", "text"))
    return Page(sections=(Section(tables=(Table(columns, tuple(rows), keys=1),)),))


def target_page(facts: Mapping[str, str | bool | list[str]]) -> Page:
    """What a board with a JetPack can take."""
    rows = []
    for key, name in TARGET_ROWS.items():
        value = facts[key]
        joint = ", " if key in {"precisions", "l4t"} else "\n"
        text = joint.join(value) if isinstance(value, list) else str(value)
        rows += [cells(name, text)] if text else []
    return Page(str(facts["target"]), "", (Section(tables=(Table(FACTS, tuple(rows)),)),))


def board_page(probe: Probe, findings: list[Finding] | None, note: str | None) -> Page:
    """What a board says of itself, then what `dhox doctor` says there."""
    model = probe.texts["/proc/device-tree/model"]
    library, version = probe.libc
    trt, ort = probe.tensorrt, probe.onnxruntime
    rows = (
        cells("machine", f"{probe.host}, {probe.system} {probe.machine}{', ' if model else ''}{model}"),
        cells("Python", f"{'.'.join(map(str, probe.python.version))} ({probe.python.path})"),
        cells("C library", f"{library or 'unknown'} {version}"),
        cells("TensorRT", trt.found if trt.works else f"does not load: {trt.found}"),
        cells("onnxruntime of its own", ort.found if ort.works else f"none: {ort.found}"),
        cells("L4T", (probe.texts["/etc/nv_tegra_release"] or "none").splitlines()[0]),
        cells("store of dhox", f"{probe.store}, {probe.free_bytes / 1e9:,.1f} GB free"),
    )
    there = doctor_page(findings).sections if findings is not None else (Section(intro=(f"dhox there: {note}.",)),)
    return Page("", "", (Section("On the board", tables=(Table(FACTS, rows),)), *there))

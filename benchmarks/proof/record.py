"""gpu_proof.json: what was measured, on which machine, and what was not and why."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from dhox.artefacts.machine import Conditions, DeviceCard

Status = Literal["complete", "failed", "out of time", "not run"]


class Aim(Struct, frozen=True):
    """What a value should be."""

    bound: Literal["at least", "at most"]
    value: float

    def held(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return value >= self.value if self.bound == "at least" else value <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


class Row(Struct, frozen=True, kw_only=True):
    """One figure. `interval`: lowest and highest, of what `interval_of` says."""

    subject: str
    what: str
    value: float
    unit: str = ""
    interval: tuple[float, float] | None = None
    interval_of: str = ""
    aim: Aim | None = None
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the aim was reached; None without one."""
        return None if self.aim is None else self.aim.held(self.value)


class Part(Struct, frozen=True, kw_only=True):
    """One part, and how it ended; `reason` where it did not complete. The rows until then are kept."""

    name: str
    question: str
    status: Status
    seconds: float
    rows: list[Row]
    reason: str = ""


class Proof(Struct, frozen=True, kw_only=True):
    """The whole. `rehearsal`: on a CPU with tiny sizes; its figures say nothing about a GPU."""

    schema: str
    finished_at: str
    rehearsal: bool
    machine: DeviceCard
    cuda: str | None
    environment: dict[str, str]
    conditions: Conditions
    seconds: float
    parts: list[Part]


def markdown(proof: Proof) -> str:
    """The tables that docs show."""
    gpu = proof.machine.gpu
    driver = f", driver {gpu.driver}" if gpu is not None else ""
    card = f"{gpu.name if gpu is not None else proof.machine.cpu}{driver}, CUDA {proof.cuda or 'none'}"
    packages = ", ".join(f"{name} {version}" for name, version in proof.environment.items() if name != "platform")
    lines = [f"{card}; {proof.machine.cpu}, {proof.machine.cpu_cores} cores; {packages}. {clocks(proof.conditions)}"]
    if proof.rehearsal:
        lines.insert(0, "**A rehearsal on a CPU with tiny sizes: these figures say nothing about a GPU.**\n")
    for part in proof.parts:
        lines += ["", f"### {part.question}", ""]
        if part.rows:
            lines += [
                "| | what | value | interval | aim |",
                "| --- | --- | --- | --- | --- |",
                *map(table_row, part.rows),
            ]
        if part.status != "complete":
            lines += ["", f"{part.status.capitalize()} after {part.seconds:.0f} s: {part.reason}"]
    return "\n".join(lines) + "\n"


def table_row(row: Row) -> str:
    """One line of a table."""
    value = f"{number(row.value)} {row.unit}".strip() + (f" ({row.note})" if row.note else "")
    spread = (
        "" if row.interval is None else f"{number(row.interval[0])} to {number(row.interval[1])} ({row.interval_of})"
    )
    aim = "" if row.aim is None else f"{row.aim}: {'held' if row.held else 'missed'}"
    return f"| {row.subject} | {row.what} | {value} | {spread} | {aim} |"


def number(value: float) -> str:
    """Four digits that matter, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def clocks(found: Conditions) -> str:
    """Which clocks and what throttling were seen."""
    spread = found.gpu_clock_mhz
    mhz = "GPU clock not read" if spread is None else f"GPU at {spread.min:.0f} to {spread.max:.0f} MHz"
    return f"{mhz}; throttled by: {', '.join(found.throttled) or 'nothing that was seen'}."

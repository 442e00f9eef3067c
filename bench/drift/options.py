"""The options of `dhox drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from dhox.options.declare import AtLeastOne, Group, Natural, Option, Options


class DriftGates(Group):
    """Gates"""

    max_estimated_drop: Annotated[
        Annotated[float, Meta(gt=0, le=100)] | None,
        Option(
            "Exit 3 where accuracy may have fallen by more points than this, by the one-sided 95 % bound of the "
            "estimate (sampling of validation and field).",
            shown="no gate", metavar="POINTS", common=True,
        ),
    ] = None  # fmt: skip


class DriftHow(Group):
    """How images are answered"""

    device: Annotated[Literal["auto", "cpu", "cuda"], Option("Where the export runs.", metavar="auto|cpu|cuda")] = (
        "auto"
    )
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        Option("Which model.", shown="the export's choice; fp32 on the CPU", metavar="fp32|fp16|int8"),
    ] = None
    every: Annotated[AtLeastOne, Option("Of a video, take every N-th frame.")] = 1
    seed: Annotated[Natural, Option("Of tests and intervals, which are drawn at random.")] = 0


class DriftOutput(Group):
    """Output"""

    out: Annotated[Path | None, Option("Drift directory.", shown="RUN/drift/TIME", common=True)] = None
    overwrite: Annotated[bool, Option("Replace an output directory of the same kind.", common=True)] = False


class DriftOptions(Options):
    """The options of `dhox drift`."""

    gates: DriftGates = DriftGates()
    how: DriftHow = DriftHow()
    output: DriftOutput = DriftOutput()

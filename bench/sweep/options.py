"""The options of `dhox sweep`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from dhox.bench.options import DeviceOption, Duration, Overwrite, Window
from dhox.errors import UsageError
from dhox.options.declare import AtLeastOne, Group, Option, Options

UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
CANDIDATES = Path(".dhox-candidates")  # hidden: no command takes an untrained student for the newest export


class Students(Group, kw_only=True):
    """Which students"""

    students: Annotated[
        str | None,
        Option(
            "Students as distill takes them, separated by commas.", shown="all in --candidates",
            metavar="NAME,NAME,...", common=True,
        ),
    ] = None  # fmt: skip
    image_size: Annotated[
        AtLeastOne | None,
        Option(
            "Side of the images in pixels; without --students: only candidates of this size.",
            shown="each student's own", common=True,
        ),
    ] = None  # fmt: skip
    classes: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Option("Number of classes; without --students: only candidates with so many.", shown="10"),
    ] = None
    fp16: Annotated[bool, Option("Measure fp16 files in place of fp32.", common=True)] = False
    runs: Annotated[
        tuple[Path, ...],
        Option("Folder with finished runs, whose accuracies are joined; repeatable.", shown="none", common=True),
    ] = ()
    candidates: Annotated[
        Path, Option("Exports of untrained students, made once; copy it to a board without torch.")
    ] = CANDIDATES

    @property
    def names(self) -> list[str]:
        """The students that were named, each once."""
        parts = [name.strip() for name in (self.students or "").split(",")]
        return list(dict.fromkeys(name for name in parts if name))

    @property
    def precision(self) -> Literal["fp32", "fp16"]:
        """What is measured."""
        return "fp16" if self.fp16 else "fp32"


class Measuring(Group, kw_only=True):
    """How to measure"""

    budget: Annotated[
        str | None,
        Option(
            "Median latency that the student may have, such as 5ms or 200us.", shown="none", metavar="TIME",
            common=True,
        ),
    ] = None  # fmt: skip
    batch: Annotated[AtLeastOne, Option("Batch size.", common=True)] = 1
    scope: Annotated[
        Literal["device", "e2e", "pipeline"], Option("What lies between the readings of the clock, see bench.")
    ] = "e2e"
    runner: Annotated[str | None, Option("What runs the models.", shown="by device", metavar="NAME[:OPTION]")] = None
    duration: Annotated[Duration, Option("Seconds of timed calls per student, in 40 rounds.")] = 4.0
    energy: Annotated[
        Window,
        Option(
            "Seconds of the window in which the energy of each student is measured, where a sensor can be read; 0: not "
            "measured."
        ),
    ] = 30.0

    @property
    def budget_ms(self) -> float | None:
        """The budget in milliseconds. Raises UsageError for what is no latency."""
        return None if self.budget is None else parse_budget(self.budget)


class Place(Group, kw_only=True):
    """Where to measure"""

    device: DeviceOption = "auto"
    host: Annotated[
        str | None, Option("Measure on this board by SSH.", metavar="USER@BOARD", shown="this machine", common=True)
    ] = None


class SweepOutput(Group, kw_only=True):
    """Output"""

    out: Annotated[Path | None, Option("Sweep directory.", shown="sweeps/HOST-TIME", common=True)] = None
    overwrite: Overwrite = False


class SweepOptions(Options, kw_only=True):
    """The options of `dhox sweep`."""

    students: Students = Students()
    measuring: Measuring = Measuring()
    place: Place = Place()
    output: SweepOutput = SweepOutput()


def parse_budget(text: str) -> float:
    """A latency such as 5ms, 0.5 ms, 200us or 2s, in milliseconds. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s)\s*", text)
    budget = float(found[1]) * UNITS_MS[found[2]] if found else 0.0
    if not 0 < budget < float("inf"):
        raise UsageError(
            f"--budget {text} is no latency.", "Write a number above 0 with its unit: 5ms, 0.5ms, 200us or 2s."
        )
    return budget

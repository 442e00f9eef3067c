"""The energy part of bench.json: power in watts, energy in millijoules."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dhox.artefacts.bench_latency import Scope
from dhox.artefacts.record import AtLeastOne, Count, Name, NotNegative, Positive, Record


class IdlePower(Record, kw_only=True):
    """Measured first, nothing running."""

    seconds: Positive
    mean_w: float
    rails_w: dict[str, float]
    readings: Count


class EnergyFigures(Record, kw_only=True):
    """Of a window. What needs idle power or accuracy is null without it; net figures are above idle."""

    seconds: Positive
    images: Count
    mean_w: float
    idle_w: float | None
    net_w: float | None
    mj_per_image: float
    net_mj_per_image: float | None
    images_per_joule: float | None
    mj_per_correct: Annotated[float | None, Meta(description="mj_per_image over accuracy on the test split")]


class EnergyRow(EnergyFigures, kw_only=True):
    """One uninterrupted window."""

    model: Name
    runner: Name
    batch: AtLeastOne
    scope: Scope
    calls: Count
    rails_w: Annotated[dict[str, float], Meta(description="mean of each rail")]
    resolution: Annotated[float, Meta(ge=0, le=1, description="share of the energy that the sensor leaves uncertain")]
    flags: list[Name]
    trace: Annotated[str, Meta(description="its name in samples.npz")]


class Energy(Record, kw_only=True):
    """Energy by one meter; with `note` alone it was not measured."""

    note: Annotated[str | None, Meta(description="why it was not measured")] = None
    meter: Annotated[str | None, Meta(description="what was read")] = None
    includes: Annotated[str | None, Meta(description="what is in the figures and what is not")] = None
    error: Annotated[str | None, Meta(description="the class of the sensor's error")] = None
    error_w: Annotated[NotNegative | None, Meta(description="its largest constant part; not in net figures")] = None
    rails: Annotated[list[str], Meta(description="every rail that was read")] = msgspec.field(default_factory=list)
    total: Annotated[list[str], Meta(description="the rails that are summed")] = msgspec.field(default_factory=list)
    estimate: Annotated[bool, Meta(description="the total is a sum of rails and no measured input")] = False
    idle: IdlePower | None = None
    rows: list[EnergyRow] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        for rails in [row.rails_w for row in self.rows] + ([self.idle.rails_w] if self.idle else []):
            if set(rails) != set(self.rails) or not set(self.total) <= set(self.rails):
                raise ValueError("a row holds other rails than `rails`")

"""sweep.json: which students were measured untrained, and which of them to distill for a latency budget."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.bench_latency import LatencyMs, MsInterval, Scope
from dhox.artefacts.machine import Conditions, DeviceCard
from dhox.artefacts.record import AtLeastOne, Count, Kind, Name, Positive, Record, Share, ShareInterval


class SweepSettings(Record, kw_only=True):
    """What was asked for."""

    students: Annotated[list[str], Meta(description="empty: all of `candidates`")]
    image_size: AtLeastOne | None
    classes: AtLeastOne
    precision: Literal["fp32", "fp16"]
    batch: AtLeastOne
    scope: Scope
    runner: str | None
    duration_s: Positive
    energy_s: Annotated[float, Meta(ge=0)]
    budget_ms: Positive | None
    runs: Annotated[list[str], Meta(description="folders whose accuracies were joined")]
    candidates: Annotated[str, Meta(description="folder of the untrained exports")]


class KnownAccuracy(Record, kw_only=True):
    """What a finished run says about a student's accuracy."""

    accuracy: Share
    interval: ShareInterval
    n: Count
    split: str
    data: str
    method: str
    what: Annotated[str, Meta(description="which evidence it is")]
    run: str


class SweepRow(Record, kw_only=True):
    """One student, measured."""

    student: Name
    image_size: AtLeastOne
    parameters: Annotated[int, Meta(ge=0, description="floating-point numbers that the file stores")]
    bytes: Count
    latency_ms: LatencyMs
    p50_interval: MsInterval
    p99_interval: MsInterval | None
    images_per_s: Positive
    flags: list[Name]
    runner: Name
    mj_per_image: float | None
    net_mj_per_image: float | None
    emulated: Annotated[str | None, Meta(description="of sweeps that timed it nevertheless: why that says nothing")] = (
        None
    )
    accuracy: KnownAccuracy | None = None
    within: Annotated[bool | None, Meta(description="whether it is within the budget; null without one")] = None
    memory_bytes: Annotated[int | None, Meta(description="by its own process, see `method`")] = None
    memory_note: Annotated[str | None, Meta(description="why it was not measured")] = None


class Failed(Record):
    """A student that could not be exported or measured."""

    student: Name
    reason: str


class Front(Record):
    """Students that none beats in one respect without losing in the other, against latency."""

    accuracy: list[Name]
    parameters: list[Name]


class Choice(Record, kw_only=True):
    """What to distill, best first; empty where no student is within the budget. `within`: those, fastest first."""

    distill: list[Name]
    within: list[Name]
    reasons: Annotated[list[str], Meta(min_length=1, description="one sentence each")]


class EnergySource(Record, kw_only=True):
    """What measured energy, or why nothing did."""

    meter: str | None
    note: str | None
    estimate: bool


class Sweep(Kind, kw_only=True):
    """sweep.json of a sweep directory; the bench behind it lies in bench/ there."""

    schema: Literal["dhox.sweep/2"] = "dhox.sweep/2"
    status: Literal["complete", "interrupted", "running"]
    finished_at: str
    device_asked: str
    host: Annotated[str | None, Meta(description="--host as given")]
    device: DeviceCard
    settings: SweepSettings
    method: Annotated[list[str], Meta(description="how the numbers were made, one sentence each")]
    rows: Annotated[list[SweepRow], Meta(description="fastest first")]
    failed: list[Failed]
    front: Front
    choice: Annotated[Choice | None, Meta(description="null without a budget, and where it was interrupted")]
    energy: EnergySource
    conditions: Conditions | None
    environment: dict[str, str]

    def __post_init__(self) -> None:
        students = {row.student for row in self.rows}
        named = {*self.front.accuracy, *self.front.parameters, *(self.choice.distill if self.choice else [])}
        if named - students or len(students) < len(self.rows):
            raise ValueError("a student is twice in `rows`, or named elsewhere and not there")

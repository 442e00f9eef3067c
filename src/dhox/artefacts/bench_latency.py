"""The timed part of bench.json: latencies in ms, comparisons, streams, and the times of another tool."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from dhox.artefacts.record import AtLeastOne, Count, Interval, Name, NotNegative, Positive, Record

Milliseconds = Annotated[float, Meta(ge=1e-9, le=1e9)]
MsInterval = tuple[Milliseconds, Milliseconds]
ScopeName = Literal["device", "e2e", "pipeline", "camera"]
Scope = Annotated[
    ScopeName,
    Meta(
        description="device: input on the device to output there; e2e: preprocessed uint8 pixels in host memory to "
        "probabilities there; pipeline: encoded images to probabilities; camera: raw frames in host memory to "
        "probabilities there"
    ),
]
Verdict = Literal["faster", "slower", "no difference shown"]


class Key(NamedTuple):
    """What one latency is about; unique in a bench."""

    model: str
    runner: str
    batch: int
    scope: ScopeName

    @property
    def text(self) -> str:
        """For messages."""
        return f"{self.model} by {self.runner}, batch {self.batch}, {self.scope}"


class LatencyMs(Record, kw_only=True):
    """Per call; nearest-rank percentiles of all samples."""

    p50: Milliseconds
    p90: Milliseconds
    p95: Milliseconds
    p99: Milliseconds
    max: Milliseconds
    min: Milliseconds
    mean: Milliseconds
    mad: Annotated[float, Meta(ge=0, description="median absolute deviation from the median")]


class Effective(Record):
    """How many independent rounds and calls the intervals count."""

    rounds: NotNegative
    calls_at_p99: Count


class Drift(Record):
    """Whether round medians change with time: Spearman's rho, and the relative change from the first to the last."""

    rho: Annotated[float, Meta(ge=-1.0001, le=1.0001)]
    change: float
    flagged: bool


class WarmUp(Record):
    """How the warm-up went."""

    seconds: NotNegative
    steady: bool


class LatencyStatistics(Record, kw_only=True):
    """The numbers of one cell's calls."""

    n: Annotated[int, Meta(ge=1, description="timed calls")]
    rounds: AtLeastOne
    latency_ms: LatencyMs
    p50_interval: Annotated[MsInterval, Meta(description="ms, bootstrap over rounds")]
    p99_interval: Annotated[MsInterval | None, Meta(description="ms; null where the calls are too few")]
    images_per_s: Positive
    cv: Annotated[float, Meta(ge=0, description="standard deviation over mean, of calls")]
    round_cv: Annotated[float, Meta(ge=0, description="the same of round medians")]
    effective: Effective
    drift: Drift
    flags: Annotated[list[Name], Meta(description="such as unstable, drift, throttled, not steady")]


class LatencyRow(LatencyStatistics, kw_only=True):
    """The latency of one (model, runner, batch, scope)."""

    model: Name
    runner: Name
    batch: AtLeastOne
    scope: Scope
    samples: Annotated[str, Meta(description="its name in samples.npz")]
    warm_up: WarmUp
    emulated: Annotated[
        str | None, Meta(description="of benches that timed it nevertheless: why that says nothing")
    ] = None

    @property
    def key(self) -> Key:
        """What it is about."""
        return Key(self.model, self.runner, self.batch, self.scope)


class ComparisonRow(Record, kw_only=True):
    """A model and runner against the first one of the same batch and scope (and the same camera), paired by round."""

    batch: AtLeastOne
    scope: Scope
    reference_model: Name
    reference_runner: Name
    model: Name
    runner: Name
    ratio: Annotated[float, Meta(gt=0, description="time over the reference's: below 1 is faster")]
    interval: Annotated[Interval, Meta(description="all of one bench hold together with 95 %")]
    verdict: Verdict


class Throughput(Record, kw_only=True):
    """Of several callers together; latencies are of the calls that end in the window."""

    images_per_s: Annotated[float, Meta(gt=0, description="of all streams together")]
    interval: Annotated[Interval, Meta(description="of images_per_s")]
    n: Annotated[int, Meta(ge=0, description="calls that end in the window")]
    p50_ms: Milliseconds
    p99_ms: Milliseconds | None
    p99_note: Annotated[str | None, Meta(description="why there is no p99")] = None


class StreamRow(Throughput, kw_only=True):
    """Throughput of one model and runner at once with itself."""

    model: Name
    runner: Name
    batch: AtLeastOne
    streams: Annotated[int, Meta(ge=1, description="callers at once")]


class CrossCheck(Record, kw_only=True):
    """The same engine timed by trtexec: medians in ms."""

    model: Name
    runner: Name
    batch: AtLeastOne
    scope: Scope
    version: str
    field: Annotated[str, Meta(description="of trtexec's exported times")]
    graph: bool
    theirs_ms: Milliseconds
    ours_ms: Milliseconds
    difference_percent: Annotated[float, Meta(description="how much theirs is above ours; one run each, no interval")]
    p99_ms: Milliseconds
    n: Count
    unstable: bool
    arguments: list[str]
    note: str

"""bench.json: what `dhox bench` measured, and what it could not."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.bench_accuracy import Accuracy, DeviceLedger, GoldenRow, Precision
from dhox.artefacts.bench_energy import Energy
from dhox.artefacts.bench_latency import ComparisonRow, CrossCheck, LatencyRow, Scope, StreamRow
from dhox.artefacts.frame import Camera
from dhox.artefacts.machine import Conditions, DeviceCard, Memory
from dhox.artefacts.record import AtLeastOne, Count, Kind, Name, NotNegative, Record, Sha256
from dhox.artefacts.remote import Remote


class Settings(Record, kw_only=True):
    """What was asked for."""

    batches: list[AtLeastOne]
    scopes: list[Scope]
    duration_s: Annotated[float, Meta(gt=0, description="of calls per latency row")]
    energy_s: Annotated[float, Meta(ge=0, description="window of an energy row; 0: none")]
    streams: Annotated[list[AtLeastOne], Meta(description="runners at once")]
    rounds: AtLeastOne
    seed: Annotated[int, Meta(description="of the random order within rounds")]
    runners: list[Name]
    images: Annotated[str, Meta(description="which images were timed")]


class ExportLink(Record):
    """The export directory of a model."""

    path: str
    manifest_sha256: Sha256


class CameraWay(Record):
    """How a model is reached from a camera's raw frames. `way`: preprocessing in its graph, or the ordinary file behind
    Pillow or OpenCV. `name`: of the camera."""

    name: Name
    way: Literal["graph", "Pillow", "OpenCV"]
    camera: Camera


class ModelRow(Record, kw_only=True):
    """One model file. Every other row refers to its `name`."""

    name: Name
    file: str
    path: str
    precision: Annotated[Precision, Meta(description="what the file states")]
    bytes: Count
    sha256: Sha256
    input_kind: Literal["uint8-nhwc", "uint8-nchw", "float-nchw", "float-nchw-255", "float-nhwc", "frames"]
    export: ExportLink | None
    contract: Annotated[str | None, Meta(description="contract file of a model that dhox did not export")]
    camera: Annotated[CameraWay | None, Meta(description="only where it is timed from raw frames")] = None


class RunnerFacts(Record, kw_only=True):
    """What executed a model, as it was asked and as it was found; complete once the runner is bound to a batch."""

    device: Literal["cpu", "cuda", "tensorrt"]
    provider_asked: str | None
    provider: Annotated[str | None, Meta(description="what was really used")] = None
    graph_asked: bool = False
    graph: Annotated[bool, Meta(description="whether a CUDA graph is replayed")] = False
    graph_note: Annotated[str | None, Meta(description="the runtime's words where it was asked for and is not")] = None
    precision_asked: str | None = None
    precision_proven: Annotated[str | None, Meta(description="what is computed; null where nothing proves it")] = None
    precision_note: str | None = None
    nodes_off_device: Annotated[int | None, Meta(description="that fell back to the CPU; null: not counted")] = None
    notes: list[str] = msgspec.field(default_factory=list)
    engine: Annotated[str | None, Meta(description="path of the TensorRT engine")] = None

    @property
    def emulated(self) -> str | None:
        """Why this runner's time says nothing about the device that its precision is made for."""
        return self.precision_note if self.device == "cpu" and self.precision_proven is None else None


class RunnerRow(Record, kw_only=True):
    """One runner of a model at a batch size. `runner` as asked: NAME[:OPTION[+OPTION]]."""

    model: Name
    runner: Name
    batch: AtLeastOne
    open_s: Annotated[NotNegative | None, Meta(description="to open the model, an engine build included")]
    facts: RunnerFacts


class NotRun(Record, kw_only=True):
    """What was asked for and not measured, or not to its end, and why."""

    what: Literal["bench", "model", "latency", "accuracy", "energy", "streams", "trtexec"]
    reason: str
    model: Name | None = None
    runner: Name | None = None
    batch: AtLeastOne | None = None
    scope: Scope | None = None
    streams: AtLeastOne | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.model is None:
            return f"the rest not run: {self.reason}"
        place = [f"at batch {self.batch}" if self.batch else "", f"in {self.streams} streams" if self.streams else ""]
        parts = [self.model, f"by {self.runner}" if self.runner else "", *place]
        cell = " ".join(part for part in parts if part) + (f", {self.scope}" if self.scope else "")
        prefix = "" if self.what in {"model", "latency"} or self.streams else f"{self.what} of "
        return f"{prefix}{cell} {'ended early' if self.what == 'latency' else 'not run'}: {self.reason}"


class Bench(Kind, kw_only=True):
    """bench.json of a bench directory. Raw samples lie beside it in samples.npz, single answers in predictions.csv."""

    schema: Literal["dhox.bench/3"] = "dhox.bench/3"
    status: Annotated[
        Literal["complete", "interrupted", "running"],
        Meta(description="interrupted: what was measured until then; running: as interrupted, by a kill"),
    ]
    finished_at: Annotated[str, Meta(description="UTC, ISO 8601; text order is time order")]
    device_asked: Annotated[str, Meta(description="--device as given")]
    device: DeviceCard
    settings: Settings
    method: Annotated[list[str], Meta(description="how the numbers were made, one sentence each")]
    models: Annotated[list[ModelRow], Meta(min_length=1)]
    runners: list[RunnerRow]
    latency: list[LatencyRow]
    comparisons: list[ComparisonRow]
    streams: list[StreamRow]
    conditions: Conditions | None
    memory: Memory | None
    energy: Energy
    accuracy: Accuracy
    ledgers: Annotated[list[DeviceLedger], Meta(description="one per export")]
    golden: list[GoldenRow]
    cross_checks: list[CrossCheck]
    not_run: list[NotRun]
    environment: Annotated[dict[str, str], Meta(description="versions, by package")]
    remote: Annotated[Remote | None, Meta(description="only where a board measured, over ssh")] = None

    def __post_init__(self) -> None:
        names = {model.name for model in self.models}
        rows: list[Any] = [
            *self.runners,
            *self.latency,
            *self.comparisons,
            *self.streams,
            *self.energy.rows,
            *self.accuracy.rows,
        ]
        rows += [*self.golden, *self.cross_checks, *(row for ledger in self.ledgers for row in ledger.rows)]
        unknown = {row.model for row in rows} | {row.reference_model for row in self.comparisons}
        if len(names) < len(self.models) or unknown - names:
            raise ValueError("the names of `models` are not unique, or a row is of a model that is not among them")
        if len({row.key for row in self.latency}) < len(self.latency):
            raise ValueError("two rows of `latency` are about the same model, runner, batch and scope")

    @property
    def passed(self) -> bool:
        """Whether every model passed its golden check."""
        return all(row.passed for row in self.golden)

    @property
    def emulated(self) -> dict[tuple[str, str], str]:
        """(model, runner) whose precision the device emulates, so that no time is given, and why."""
        rows = [(row.model, row.runner, row.facts.emulated) for row in self.runners]
        rows += [(row.model, row.runner, row.emulated) for row in self.latency]
        return {(model, runner): why for model, runner, why in rows if why}

    @property
    def measured_latency(self) -> list[LatencyRow]:
        """The latencies of precisions that the device really computes."""
        emulated = self.emulated
        return [row for row in self.latency if (row.model, row.runner) not in emulated]

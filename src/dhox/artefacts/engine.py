"""engine.json beside a TensorRT engine: what was built from what, for which machine, and what proves it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.golden import GoldenResult
from dhox.artefacts.ledger import DeviceRow
from dhox.artefacts.record import AtLeastOne, Count, FileName, Kind, Name, NotNegative, Record, Sha256, Share

ENGINE_FILE, PLAN_FILE = "engine.json", "model.engine"
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8"]


class SourceFile(Record):
    """The ONNX file that an engine was built from."""

    file: FileName
    sha256: Sha256


class Plan(Record):
    """The serialised engine."""

    file: Literal["model.engine"]
    bytes: AtLeastOne
    sha256: Sha256


class Builder(Record):
    """Which TensorRT built it."""

    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: Annotated[str, Meta(pattern=r"^\d+(\.\d+)+")]


class BuiltFor(Record):
    """The machine. `gpu`, `compute_capability`: None for an engine that fits every GPU.

    `board` (the module, or the board's model) and `jetpack`: of a Jetson.
    """

    gpu: str | None
    compute_capability: Annotated[str, Meta(pattern=r"^\d+\.\d+$")] | None
    platform: Name
    board: str | None = None
    jetpack: str | None = None


class EngineOptions(Record):
    """What an engine is built for. `smallest`, `usual`, `largest`: batches. `workspace_mib`: None for all memory.

    `dla`: the DLA core.
    """

    smallest: AtLeastOne = 1
    usual: AtLeastOne = 8
    largest: AtLeastOne = 16
    workspace_mib: AtLeastOne | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: Count | None = None


class Products(Record, kw_only=True):
    """Convolutions and matrix products by precision, and the share of the one that was asked for."""

    products: dict[str, Count]
    share: Share


class ParsedPrecision(Products, kw_only=True):
    """The parsed network; `layers_by_type`: how many layers give which type."""

    layers_by_type: dict[str, Count]


class CompiledPrecision(Products, kw_only=True):
    """The compiled engine, by its own account.

    `source`: who says so, the inspector or the builder's log. `differs`: nodes that it computes in another precision
    than the network states, [stated, computed]. `hidden`: nodes that it does not account for.
    """

    source: str
    differs: dict[str, tuple[str, str]]
    hidden: list[str]

    @property
    def status(self) -> str:
        """proven, or for how many of the nodes."""
        told = sum(self.products.values())
        return f"proven for {told} of {told + len(self.hidden)}" if self.hidden else "proven"


class Trust(Kind, kw_only=True):
    """A user's note on an engine that was built here, outside any directory that can be copied."""

    schema: Literal["dhox.trust/1"] = "dhox.trust/1"
    built_at: str
    host: str
    folder: str


class Engine(Kind, kw_only=True):
    """The sidecar of an engine.

    `dla_fallback`: layers that DLA leaves to the GPU. `compiled`, `golden` and `ledger` are what was proven, or None
    with the reason in the note beside it.
    """

    schema: Literal["dhox.engine/2"] = "dhox.engine/2"
    status: Literal["complete"] = "complete"
    finished_at: Name
    folder: FileName
    precision: EnginePrecision
    onnx: SourceFile
    engine: Plan
    tensorrt: Builder
    device: BuiltFor
    options: EngineOptions
    dla_fallback: list[str]
    parsed: ParsedPrecision
    compiled: CompiledPrecision | None
    compiled_note: str | None
    golden: GoldenResult | None
    golden_note: str | None
    ledger: DeviceRow | None
    ledger_note: str | None
    build_seconds: NotNegative
    trust: str

    def __post_init__(self) -> None:
        options = self.options
        for what in ("compiled", "golden", "ledger"):
            if getattr(self, what) is None and getattr(self, f"{what}_note") is None:
                raise ValueError(f"{what} is missing, and no note says why")
        if not options.smallest <= options.usual <= options.largest:
            raise ValueError("the batches of its options are not in ascending order")

"""What a machine is and what it did, as bench.json and sweep.json record it: the device card, and the conditions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from dhox.artefacts.record import Count, Name, NotNegative, Record


class GpuCard(Record, kw_only=True):
    """A discrete GPU by its management library; None: it does not tell."""

    name: Name
    compute_capability: Annotated[str | None, Meta(description="such as 8.7")]
    driver: str | None
    memory_bytes: Count | None
    power_limit_w: Annotated[float | None, Meta(description="as enforced now")]
    highest_clock_mhz: NotNegative | None
    mig: Annotated[bool, Meta(description="cut into instances, which share power and clocks")]


class Clock(Record, kw_only=True):
    """A clock in MHz and the limits that are set; None: it cannot be read. `governor`: of the GPU."""

    current: NotNegative | None = None
    min: NotNegative | None = None
    max: NotNegative | None = None
    governor: str | None = None


class SetPowerMode(Record):
    """The power mode that was set. Ids and names differ between boards and JetPacks, so both are kept."""

    id: int
    name: str


class SystemTensorRT(Record, kw_only=True):
    """JetPack's TensorRT for Python: its version, and why `import tensorrt` would not find it."""

    version: str | None
    why_not: str | None


class JetsonCard(Record, kw_only=True):
    """A Jetson board. What could not be read is None, with the reason beside it."""

    model: str
    module: str | None
    soc: Annotated[str, Meta(description="such as tegra234")]
    compute_capability: str | None
    l4t: Annotated[str | None, Meta(description="release of Jetson Linux, such as 36.4.3")]
    jetpack: Annotated[str | None, Meta(description="None for a release that no table names")]
    power_mode: SetPowerMode | None
    power_mode_note: str | None
    jetson_clocks: Annotated[Literal["on", "off", "unknown"], Meta(description="whether it holds the clocks")]
    gpu_clock_mhz: Clock | None
    memory_clock_mhz: Clock | None
    memory_clock_note: str | None
    temperature_c: Annotated[dict[str, float], Meta(description="by thermal zone")]
    memory_bytes: Count | None
    python: str
    tensorrt: SystemTensorRT


class DeviceCard(Record, kw_only=True):
    """The machine that measured."""

    host: str
    platform: str
    machine: Annotated[str, Meta(description="architecture, such as x86_64 or aarch64")]
    cpu: str
    cpu_cores: Annotated[int | None, Meta(description="that the process may use")]
    memory_bytes: Count | None
    gpu: GpuCard | None
    jetson: JetsonCard | None
    sysroot: Annotated[str | None, Meta(description="below which system files were read, where that is a recording")]


class Spread(Record):
    """Lowest, median and highest value that was seen."""

    min: float
    median: float
    max: float


class Warming(Record):
    """A temperature in Celsius: the first, and the highest."""

    first: float
    max: float


class Conditions(Record, kw_only=True):
    """Clocks, temperatures and throttling, sampled while latency was measured; None: it cannot be read."""

    sampled: Annotated[int, Meta(ge=0, description="times that everything was read")]
    sample_ms: Annotated[float | None, Meta(description="median cost of one reading of everything")]
    gpu_clock_mhz: Spread | None
    memory_clock_mhz: Spread | None
    cpu_clock_mhz: Annotated[Spread | None, Meta(description="of the fastest core")]
    temperature_c: Annotated[dict[str, Warming], Meta(description="by sensor")]
    throttled: Annotated[list[str], Meta(description="reasons that were seen")]
    locked: Annotated[bool | None, Meta(description="whether the clocks have but one permitted value")]
    note: str | None


class Memory(Record, kw_only=True):
    """Memory that a measurement took."""

    peak_bytes: Annotated[int | None, Meta(description="largest drop of the machine's available memory")]
    process_peak_bytes: Annotated[int | None, Meta(description="peak resident set of the process")]
    method: str

"""The options of `dhox bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from msgspec import Meta

from dhox.artefacts.bench_latency import ScopeName
from dhox.errors import UsageError
from dhox.options.declare import Group, Option, Options

Device = Literal["auto", "cpu", "cuda", "tensorrt", "jetson"]
Duration = Annotated[float, Meta(ge=0.05, le=3600)]
Window = Annotated[float, Meta(ge=0, le=3600)]
DeviceOption = Annotated[
    Device,
    Option(
        "Where to measure; jetson never falls back to the CPU.", metavar="auto|cpu|cuda|tensorrt|jetson", common=True
    ),
]
Overwrite = Annotated[bool, Option("Replace an output directory of the same kind.")]
ALL_SCOPES: tuple[ScopeName, ...] = get_args(ScopeName)


class What(Group, kw_only=True):
    """What to measure"""

    runner: Annotated[
        tuple[str, ...],
        Option(
            "What runs the model: onnxruntime, ort-tensorrt, tensorrt or torch; options graph (CUDA graph) and nhwc, "
            "as in onnxruntime:graph+nhwc; repeatable.", shown="by device", metavar="NAME[:OPTION]", common=True,
        ),
    ] = ()  # fmt: skip
    precision: Annotated[
        tuple[Literal["fp32", "fp16", "int8"], ...],
        Option("Artefacts of the exports; repeatable.", shown="all", metavar="fp32|fp16|int8", common=True),
    ] = ()
    contract: Annotated[Path | None, Option("Contract of a model of another tool.", shown="none")] = None
    data: Annotated[
        Path | None, Option("DATA with the test split.", shown="where the export's run found it", common=True)
    ] = None


class How(Group, kw_only=True):
    """How to measure"""

    batch: Annotated[str, Option("Batch sizes.", metavar="N,N,...", common=True)] = "1,8"
    scope: Annotated[
        str | None,
        Option(
            "What lies between the readings of the clock: device (input and output there), e2e (pixels in host memory "
            "to probabilities), pipeline (encoded images to probabilities), camera (raw frames in host memory to "
            "probabilities; needs a camera file).", shown="all; camera where there is a file", metavar="NAME,...",
        ),
    ] = None  # fmt: skip
    duration: Annotated[
        Duration, Option("Seconds of timed calls per model, runner, batch and scope, in 40 rounds.", common=True)
    ] = 4.0
    energy: Annotated[
        Window,
        Option(
            "Seconds of the window in which the energy of each model, runner and batch is measured, where a sensor can "
            "be read; 0: not measured.", common=True,
        ),
    ] = 30.0  # fmt: skip
    streams: Annotated[
        str | None, Option("Throughput of so many runners at once.", shown="not measured", metavar="N,N,...")
    ] = None

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, each once."""
        return numbers("--batch", self.batch)

    @property
    def scopes(self) -> tuple[ScopeName, ...] | None:
        """The scopes that were asked for, each once; None: all that the models have."""
        if self.scope is None:
            return None
        names = tuple(dict.fromkeys(self.scope.split(",")))
        for name in names:
            if name not in ALL_SCOPES:
                raise UsageError(f"--scope {name} is unknown.", f"Use one of: {', '.join(ALL_SCOPES)}.")
        return names  # type: ignore[return-value]

    @property
    def stream_counts(self) -> tuple[int, ...]:
        """How many runners at once, each once."""
        return numbers("--streams", self.streams) if self.streams else ()


class Where(Group, kw_only=True):
    """Where to measure"""

    device: DeviceOption = "auto"
    trust_engine: Annotated[
        bool, Option("Load a TensorRT engine that you did not build here. It can run any code.")
    ] = False
    power_modes: Annotated[
        bool,
        Option(
            "On a Jetson: measure in every power mode that needs no reboot, into OUT/ID-NAME; sets modes by sudo -n "
            "nvpmodel, and the present one again at the end."
        ),
    ] = False
    host: Annotated[
        str | None,
        Option(
            "Measure there, over ssh: what is needed is copied, and the results come back.", shown="this machine",
            metavar="[USER@]HOST", common=True,
        ),
    ] = None  # fmt: skip
    remote_python: Annotated[
        str | None, Option("With --host: the Python to use there, 3.10 or newer.", shown="python3", metavar="COMMAND")
    ] = None


class Output(Group, kw_only=True):
    """Output"""

    out: Annotated[Path | None, Option("Bench directory.", shown="EXPORT/../bench/HOST-TIME", common=True)] = None
    overwrite: Overwrite = False


class BenchOptions(Options, kw_only=True):
    """The options of `dhox bench`."""

    what: What = What()
    how: How = How()
    where: Where = Where()
    output: Output = Output()


class Gates(Group):
    """Gates (exit 3)"""

    max_slowdown: Annotated[
        Annotated[float, Meta(ge=1, le=1e6)] | None,
        Option(
            "Fail where the median grew by more than this factor and its 95 % interval excludes 1.", shown="no gate",
            metavar="RATIO", common=True,
        ),
    ] = None  # fmt: skip
    max_accuracy_drop: Annotated[
        Annotated[float, Meta(ge=0, le=100)] | None,
        Option(
            "Fail where accuracy may have fallen by more points than this, by the one-sided 95 % bound.",
            shown="no gate", metavar="POINTS", common=True,
        ),
    ] = None  # fmt: skip


class CompareOptions(Options):
    """The options of `dhox compare`."""

    gates: Gates = Gates()


def check(options: BenchOptions) -> None:
    """Raise UsageError for lists that hold what they cannot, and for options that need another one."""
    how, where = options.how, options.where
    _ = how.batches, how.scopes, how.stream_counts
    check_host(where.host, where.remote_python)
    if where.power_modes and options.output.out is None and where.host is None:
        raise UsageError("--power-modes writes one bench directory per mode.", "Say where: --power-modes --out DIR.")


def check_host(host: str | None, remote_python: str | None) -> None:
    """Raise UsageError for --remote-python without --host."""
    if host is None and remote_python is not None:
        raise UsageError("--remote-python is the Python of a board.", "Add --host, or leave it out.")


def numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,8,32` as numbers of at least 1, each once. Raises UsageError otherwise."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise UsageError(
            f"{option} {text} is not a list of whole numbers from 1.", f"Write for example {option} 1,8,32."
        )
    return tuple(dict.fromkeys(int(part) for part in parts))

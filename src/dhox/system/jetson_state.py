"""What a Jetson does right now: clocks of GPU and memory, temperatures, and how much memory was taken. Files only."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dhox.artefacts.machine import Clock, Memory
from dhox.system.sysroot import system_path

# Nodes of the GPU below /sys/class/devfreq: 57000000.gpu (Nano), 17000000.gv11b (Xavier), 17000000.ga10b or
# 17000000.gpu (Orin; rbonghi/jetson_stats#867), gpu-gpc-0 (Thor).
GPU_NODE = re.compile(r"\w+\.(?:gpu|gm20b|gp10b|gv11b|ga10b)|gpu-gpc-\d+")
EMC = "/sys/kernel/debug/bpmp/debug/clk/emc"  # of root alone
SAMPLE_S = 0.05  # between looks at the shared memory
NEEDS_ROOT = "the memory clock is in debugfs, which only root reads (run dhox with sudo to see it)"


def read_text(path: Path) -> str | None:
    """A small file of the kernel, stripped; None where it cannot be read.

    Sensors of a part that is powered down answer "try again", which an unbuffered read gives as None.
    """
    try:
        with path.open("rb", buffering=0) as file:
            content = file.read()
    except OSError:
        return None
    return None if content is None else content.replace(b"\0", b"").decode("utf-8", "replace").strip()


def read_number(path: Path) -> int | None:
    """A whole number in a file of the kernel; None where there is none."""
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


@dataclass(frozen=True)
class Shown:
    """What `jetson_clocks --show` prints: the GPU's and the memory's clock, those of the online cores, and whether the
    memory clock is forced; None where this version does not print it."""

    gpu: Clock | None = None
    memory: Clock | None = None
    cores: tuple[Clock, ...] = ()
    override: bool | None = None


def parse_show(text: str) -> Shown:
    """Read what `jetson_clocks --show` prints; empty for an error message."""
    gpu = memory = override = None
    cores = []
    for line in text.splitlines():
        if re.match(r"cpu\d+:", line) and "Online=0" not in line:
            cores.append(_shown_clock(line, 1e3))
        elif line.startswith("GPU ") and "MinFreq" in line:
            gpu = _shown_clock(line, 1e6)
        elif line.startswith("EMC ") and "MinFreq" in line:
            memory = _shown_clock(line, 1e6)
            forced = re.search(r"FreqOverride=(\d)", line)
            override = None if forced is None else forced[1] == "1"
    return Shown(gpu, memory, tuple(cores), override)


def _shown_clock(line: str, per_mhz: float) -> Clock:
    """The clock of one printed line."""
    numbers = {name.lower(): int(value) / per_mhz for name, value in re.findall(r"(Min|Max|Current)Freq=(\d+)", line)}
    return Clock(current=numbers.get("current"), min=numbers.get("min"), max=numbers.get("max"))


def gpu_node() -> Path | None:
    """The folder of the GPU's clock below /sys/class/devfreq; None where there is none."""
    folder = system_path("/sys/class/devfreq")
    nodes = sorted(path for path in folder.glob("*") if GPU_NODE.fullmatch(path.name)) if folder.is_dir() else []
    return nodes[0] if nodes else None


def gpu_clock() -> Clock | None:
    """The GPU's clock with its governor; None where the kernel tells none."""
    node = gpu_node()
    if node is None:
        return None
    clock = _read_clock(node / "cur_freq", node / "min_freq", node / "max_freq")
    return msgspec.structs.replace(clock, governor=read_text(node / "governor"))


def _read_clock(current: Path, lowest: Path, highest: Path, per_mhz: float = 1e6) -> Clock:
    """A clock from files in Hz, or `per_mhz` of another unit."""
    mhz = [None if (value := read_number(path)) is None else value / per_mhz for path in (current, lowest, highest)]
    return Clock(current=mhz[0], min=mhz[1], max=mhz[2])


def memory_clock(shown: Shown) -> tuple[Clock | None, str | None]:
    """The memory's clock as `jetson_clocks --show` or debugfs tells root, or None and the reason."""
    if shown.memory is not None:
        return shown.memory, None
    emc = system_path(EMC)
    clock = _read_clock(emc / "rate", emc / "min_rate", emc / "max_rate")
    return (None, NEEDS_ROOT) if clock == Clock() else (clock, None)


def clocks_held(gpu: Clock | None, shown: Shown) -> Literal["on", "off", "unknown"]:
    """Whether jetson_clocks holds the clocks; unknown where the kernel does not tell.

    On: the lowest clock is the highest, of the GPU and of every online core.
    """
    cores = shown.cores or _core_limits()
    ranges = [(clock.min, clock.max) for clock in (gpu or Clock(), *cores)]
    if not cores or any(None in pair for pair in ranges):
        return "unknown"
    return "on" if all(low == high for low, high in ranges) else "off"


def _core_limits() -> list[Clock]:
    limits = []
    for core in sorted(system_path("/sys/devices/system/cpu").glob("cpu[0-9]*")):
        if read_text(core / "online") != "0":
            scaling = core / "cpufreq"
            clock = _read_clock(
                scaling / "scaling_cur_freq", scaling / "scaling_min_freq", scaling / "scaling_max_freq", 1e3
            )
            if clock.min is not None and clock.max is not None:
                limits.append(clock)
    return limits


def temperatures() -> dict[str, float]:
    """Degrees Celsius by the names of the thermal zones; zones that are switched off answer with an error: left out."""
    return {name: value / 1000 for name, path in thermal_zones().items() if (value := read_number(path)) is not None}


def thermal_zones() -> dict[str, Path]:
    """Files of temperatures (millidegrees) by the kernel's name of the zone; a Tegra's answer only while powered."""
    zones: dict[str, Path] = {}
    for folder in sorted(system_path("/sys/class/thermal").glob("thermal_zone*")):
        if name := read_text(folder / "type"):
            zones[name if name not in zones else f"{name} ({folder.name})"] = folder / "temp"
    return zones


def _sizes(text: str | None) -> dict[str, int]:
    """The sizes that a file of /proc tells, in bytes."""
    return {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text or "", re.MULTILINE)}


def memory() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    return _sizes(read_text(system_path("/proc/meminfo")))


SHARED_MEMORY_METHOD = (
    "GPU and CPU share one memory, and what CUDA allocates is in no process's resident set. So the peak is the largest "
    "drop of MemAvailable (/proc/meminfo) since the start, sampled 20 times a second: it holds whatever else "
    "began to use memory meanwhile, and misses shorter peaks. Beside it the process's own peak resident set (VmHWM)."
)


def resident_bytes(key: str = "VmHWM") -> int | None:
    """The resident set of this process: the largest so far, or now (VmRSS); None where the kernel does not tell."""
    return _sizes(read_text(Path("/proc/self/status"))).get(key)  # this process, whatever the system root is


def own_memory() -> Memory:
    """What this process took, where GPU and CPU share no memory."""
    method = "The process's peak resident set (VmHWM); what a discrete GPU holds is not in it."
    return Memory(peak_bytes=None, process_peak_bytes=resident_bytes(), method=method)


class SharedMemory:
    """What a measurement took of the memory that GPU and CPU share; see `shared_memory`."""

    def __init__(self, start: int | None) -> None:
        self.start = start
        self.lowest = start
        self.stop = threading.Event()

    def sample(self) -> None:
        """Look once."""
        available = memory().get("MemAvailable")
        if available is not None and self.lowest is not None:
            self.lowest = min(self.lowest, available)

    def summary(self) -> Memory:
        """What was taken until now; None where it cannot be read."""
        self.sample()
        return Memory(
            peak_bytes=None if self.start is None or self.lowest is None else self.start - self.lowest,
            process_peak_bytes=resident_bytes(),
            method=SHARED_MEMORY_METHOD,
        )


@contextlib.contextmanager
def shared_memory() -> Iterator[SharedMemory]:
    """Watch MemAvailable from before a model is opened until after its last inference, by one thread at 20 Hz."""
    watch = SharedMemory(memory().get("MemAvailable"))

    def look() -> None:
        while not watch.stop.wait(SAMPLE_S):
            watch.sample()

    thread = threading.Thread(target=look, name="dhox-shared-memory", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        thread.join()

"""The energy counters of x86 processors (RAPL), from the kernel's powercap files; Intel's and AMD's alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dhox.bench.sensors.meter import Reading, number
from dhox.system.jetson_state import read_text
from dhox.system.sysroot import system_path

PLACE = "/sys/class/powercap"
READABLE = f"sudo chmod a+r {PLACE}/intel-rapl:*/energy_uj"


@dataclass(frozen=True)
class Domain:
    """One counter in microjoules, which begins again after `range_uj`. `package`: a whole socket, with its parts."""

    name: str
    energy: Path
    range_uj: int
    package: bool


def find_domains() -> list[Domain]:
    """Every domain that names its range: packages, their parts as package-0/core, and the platform (psys)."""
    domains = []
    for folder in sorted(system_path(PLACE).glob("intel-rapl:*")):
        name, reach = read_text(folder / "name"), read_text(folder / "max_energy_range_uj")
        if name is None or reach is None or not reach.isdigit() or int(reach) == 0:
            continue
        parts = folder.name.split(":")
        if len(parts) > 2:
            parent = read_text(folder.parent / ":".join(parts[:2]) / "name")
            name = f"{parent or parts[1]}/{name}"
        domains.append(Domain(name, folder / "energy_uj", int(reach), len(parts) == 2 and name.startswith("package")))
    return domains


def advance(before_uj: int, now_uj: int, range_uj: int) -> int:
    """Microjoules between two readings of a counter that may have begun again once; in 0 .. range_uj - 1."""
    return (now_uj - before_uj) % range_uj


class RaplMeter:
    """The packages' counters; `meter.Meter`. Read it more often than a counter wraps (minutes at full load)."""

    name = "RAPL energy counter"
    estimate = False
    error = "RAPL: modelled or measured by the processor, which states no error; updated every millisecond"
    error_w: float | None = None
    includes = (
        "the processor packages with their caches and integrated GPU, and whatever else ran on them; not memory "
        "modules, discrete GPUs, disks, fans and the power supply"
    )

    def __init__(self, domains: list[Domain]) -> None:
        self.domains = domains
        self.rails = tuple(domain.name for domain in domains)
        self.total = tuple(domain.name for domain in domains if domain.package)
        self.last = [number(domain.energy) for domain in domains]
        self.passed = [0] * len(domains)

    def read(self) -> Reading:
        """Joules of every domain since the meter was opened. Raises OSError."""
        for i, domain in enumerate(self.domains):
            now = number(domain.energy)
            self.passed[i] += advance(self.last[i], now, domain.range_uj)
            self.last[i] = now
        return Reading({d.name: passed / 1e6 for d, passed in zip(self.domains, self.passed, strict=True)}, None)

    def close(self) -> None:
        """Nothing is held open."""


def open_rapl() -> tuple[RaplMeter | None, str]:
    """The processor's meter, or None and the reason with what to do."""
    domains = find_domains()
    if not any(domain.package for domain in domains):
        return None, (
            f"no RAPL counter of a processor package under {PLACE} (virtual machines, containers and ARM processors "
            "have none). Measure on the bare machine, or put a power meter at its plug"
        )
    readable = []
    for domain in domains:
        try:
            number(domain.energy)
        except OSError as err:
            if domain.package:
                return None, (
                    f"{domain.energy} cannot be read ({err.strerror}): kernels since 2020 keep it for root. Until the "
                    f"next start of the machine this lets every user read it: {READABLE}"
                )
        else:
            readable.append(domain)
    return RaplMeter(readable), ""

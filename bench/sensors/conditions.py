"""Clocks, temperatures and throttling while something is measured, by a light thread."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from dhox.artefacts.machine import Conditions, Spread, Warming
from dhox.bench.sensors.nvml import open_gpu
from dhox.system.jetson import is_jetson
from dhox.system.jetson_state import EMC, gpu_node, read_number, read_text, thermal_zones
from dhox.system.sysroot import system_path

HERTZ = 2.0
MOST_CPUS = 16  # whose clock is read in one sample
OVER_CURRENT = {  # events that the board's own protection counts, Orin and Thor
    "oc1_event_cnt": "under-voltage",
    "oc2_event_cnt": "average over-current",
    "oc3_event_cnt": "instantaneous over-current",
}
CPU_COUNTERS = {  # x86
    "core_throttle_count": "CPU temperature (core)",
    "package_throttle_count": "CPU temperature (package)",
}


class ConditionsWatch:
    """What the machine did between entering and leaving the context; `summary` any time after entering.

    `device`: "cpu", or anything else for a GPU. A sample is taken on entering, on leaving and `hertz` times a second
    between them; counters of throttling are compared with their last values. Nothing is changed, nothing needs
    root, and what cannot be read is left out with a note.
    """

    def __init__(self, device: str, hertz: float = HERTZ) -> None:
        self.on_gpu = device != "cpu"
        self.interval = 1 / hertz
        self.samples: dict[str, list[float]] = {"gpu": [], "memory": [], "cpu": []}
        self.temperatures: dict[str, list[float]] = {}
        self.reasons: list[str] = []
        self.blamed = False  # since `throttled` was asked last
        self.costs_s: list[float] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True, name="conditions")

    def __enter__(self) -> ConditionsWatch:
        jetson = is_jetson()
        self.gpu, self.gpu_note = open_gpu() if self.on_gpu and not jetson else (None, "")
        self.highest_mhz = None if self.gpu is None else self.gpu.highest_clock_mhz()
        self.gpu_node = gpu_node() if jetson else None
        self.cpus = _find_cpus()
        self.zones = thermal_zones()
        self.alarms = _find_alarms() if jetson else {}
        self.counters = _find_counters()
        self.counts = {path: read_number(path) for path in self.counters}
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.look()
        self.count()
        if self.gpu is not None:
            self.gpu.close()

    def run(self) -> None:
        """Sample until the context is left."""
        while not self.stop.wait(self.interval):
            self.look()

    def look(self) -> None:
        """One sample of everything that this machine tells."""
        start = time.perf_counter()
        if self.gpu is not None:
            self.keep("gpu", self.gpu.clock_mhz())
            self.keep("memory", self.gpu.memory_clock_mhz())
            self.keep_temperature("GPU", self.gpu.temperature_c())
            self.blame(f"GPU: {reason}" for reason in self.gpu.throttles())
        if self.gpu_node is not None:
            self.keep("gpu", read_number(self.gpu_node / "cur_freq"), 1e6)
            self.keep("memory", read_number(system_path(EMC) / "rate"), 1e6)
        clocks = [clock for cpu in self.cpus if (clock := read_number(cpu / "scaling_cur_freq")) is not None]
        self.keep("cpu", max(clocks, default=None), 1e3)
        for name, path in self.zones.items():
            value = read_number(path)
            self.keep_temperature(name, None if value is None else value / 1e3)
        self.blame(reason for path, reason in self.alarms.items() if (read_number(path) or 0) > 0)
        self.costs_s.append(time.perf_counter() - start)

    def count(self) -> None:
        """Compare the machine's own counters of throttling with their last values; files by the dozen, so seldom."""
        for path, reason in self.counters.items():
            last, now = self.counts[path], read_number(path)
            if last is not None and now is not None and now > last:
                self.counts[path] = now
                self.blame([reason])

    def throttled(self) -> bool:
        """Whether throttling was seen since this was asked last."""
        self.count()
        blamed, self.blamed = self.blamed, False
        return blamed

    def keep(self, what: str, value: float | None, per_mhz: float = 1.0) -> None:
        """One clock in a sample, if it was read."""
        if value is not None:
            self.samples[what].append(value / per_mhz)

    def keep_temperature(self, sensor: str, value: float | None) -> None:
        """One temperature in a sample, if it was read."""
        if value is not None:
            self.temperatures.setdefault(sensor, []).append(float(value))

    def blame(self, reasons: Iterable[str]) -> None:
        """Remember reasons of throttling, each once, in the order in which they were first seen."""
        for reason in reasons:
            self.blamed = True
            if reason not in self.reasons:
                self.reasons.append(reason)

    def summary(self) -> Conditions:
        """What was seen until now."""
        self.count()
        gpu_range = None if self.gpu_node is None else _clock_range(self.gpu_node, "min_freq", "max_freq")
        cpu_ranges = [_clock_range(cpu, "scaling_min_freq", "scaling_max_freq") for cpu in self.cpus]
        locked = (None if gpu_range is None else gpu_range[0] == gpu_range[1]) if self.on_gpu else fixed(cpu_ranges)
        return Conditions(
            sampled=len(self.costs_s),
            sample_ms=statistics.median(self.costs_s) * 1e3 if self.costs_s else None,
            gpu_clock_mhz=spread(self.samples["gpu"]),
            memory_clock_mhz=spread(self.samples["memory"]),
            cpu_clock_mhz=spread(self.samples["cpu"]),
            temperature_c={name: Warming(values[0], max(values)) for name, values in self.temperatures.items()},
            throttled=list(self.reasons),
            locked=locked,
            note=self.note(gpu_range) or None,
        )

    def note(self, gpu_range: tuple[float, float] | None) -> str:
        """What could not be read, and what a clock below its highest may mean."""
        notes = []
        if self.gpu_note:
            notes.append(f"GPU clocks not read: {self.gpu_note}")
        elif self.on_gpu and not self.samples["gpu"]:
            notes.append("GPU clocks not read: no file or driver tells them here")
        highest = self.highest_mhz if gpu_range is None else round(gpu_range[1] / 1e6)
        below = [clock for clock in self.samples["gpu"] if highest is not None and clock < 0.99 * highest]
        if below:
            share = len(below) / len(self.samples["gpu"])
            notes.append(f"the GPU's clock was below its highest ({highest} MHz) in {share:.0%} of the samples")
        if not self.on_gpu and not self.samples["cpu"]:
            notes.append("CPU clocks not read: no cpufreq files (virtual machines and containers have none)")
        return "; ".join(notes)


def spread(values: list[float]) -> Spread | None:
    """Lowest, median and highest value; None without any."""
    if not values:
        return None
    return Spread(min(values), statistics.median(values), max(values))


def _clock_range(folder: Path, lowest: str, highest: str) -> tuple[float, float] | None:
    """The permitted clocks, in the files' unit."""
    low, high = read_number(folder / lowest), read_number(folder / highest)
    return None if low is None or high is None else (low, high)


def fixed(ranges: list[tuple[float, float] | None]) -> bool | None:
    """Whether every clock has but one permitted value; None where one is not known."""
    if not ranges or None in ranges:
        return None
    return all(limits[0] == limits[1] for limits in ranges if limits is not None)


def _find_cpus() -> list[Path]:
    """The cpufreq folders of the processors that this process may use, MOST_CPUS at most."""
    numbers = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    folders = [system_path(f"/sys/devices/system/cpu/cpu{number}/cpufreq") for number in numbers]
    return [folder for folder in folders if read_number(folder / "scaling_cur_freq") is not None][:MOST_CPUS]


def _find_alarms() -> dict[Path, str]:
    """Files of a Jetson that are above zero while something throttles it, and what that is."""
    alarms = {}
    for folder in sorted(system_path("/sys/class/thermal").glob("cooling_device*")):
        kind = read_text(folder / "type") or ""
        if kind.endswith("-throttle-alert") or kind.startswith(("devfreq-", "cpufreq-")):
            alarms[folder / "cur_state"] = f"temperature ({kind})"
    for chip in sorted(system_path("/sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") == "ina3221":
            for path in sorted(chip.glob("curr[123]_crit_alarm")):
                label = read_text(chip / f"in{path.name[4]}_label") or path.name
                alarms[path] = f"over-current alarm ({label})"
    return alarms


def _find_counters() -> dict[Path, str]:
    """Files that count throttling since the machine was started, and what each counts."""
    counters: dict[Path, str] = {}
    for chip in sorted(system_path("/sys/class/hwmon").glob("hwmon*")):
        counters |= {chip / name: what for name, what in OVER_CURRENT.items() if (chip / name).exists()}
    for name, what in CPU_COUNTERS.items():
        for path in sorted(system_path("/sys/devices/system/cpu").glob(f"cpu[0-9]*/thermal_throttle/{name}")):
            counters[path] = what
    return counters

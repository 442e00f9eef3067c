"""Energy of inference: a window of its own for every artefact, against the idle power measured before."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
from msgspec.structs import asdict

from dhox.artefacts.bench_energy import Energy, EnergyFigures, EnergyRow, IdlePower
from dhox.artefacts.bench_latency import Key
from dhox.artefacts.samples import Trace, samples_name
from dhox.bench.rounds import Cell
from dhox.bench.sensors.hwmon import open_hwmon
from dhox.bench.sensors.meter import Meter, Reading
from dhox.bench.sensors.nvml import open_nvml
from dhox.bench.sensors.rapl import open_rapl
from dhox.errors import DhoxError
from dhox.system.jetson import is_jetson

METHOD = (
    "Energy: idle power first, then per artefact one uninterrupted window at a steady loop, after a time in which "
    "power settles. Sensors are read 20 times a second, at random gaps; watts are integrated by trapezoids, counters "
    "differenced, both from the end of the last settling call to the end of the window's last call. Net figures "
    "subtract idle power over the same time."
)
HERTZ = 20.0
GAPS = (0.5, 1.5)  # between readings, in mean gaps: a fixed beat could keep step with the load
RESOLUTION = 0.01  # a window whose energy is less certain than this, by the sensor's steps or readings, is flagged
DRIFT = 0.05  # last third of a window against its first
TRACE_S = 0.5  # bins of the power trace that is derived from an energy counter
MOST_MISSED = 0.1  # share of the readings that may fail


def find_meter(device: str) -> tuple[Meter | None, str]:
    """The meter for runs on a device ("cpu", else a GPU), opened; or None and why, with what to do.

    A Jetson's rails hold whatever its GPU and CPU do. Elsewhere a GPU run is measured by the GPU's own counter and a
    CPU run by the processor's, each without the rest of the machine (`Meter.includes`): a GPU run is never measured by
    the processor's counter.
    """
    if is_jetson():
        return open_hwmon()
    return open_rapl() if device == "cpu" else open_nvml()


class Sampler:
    """Reads a meter in a thread, on average `hertz` times a second, from entering to leaving the context.

    `times`: seconds (perf_counter) in the middle of each reading. Readings that fail are counted in `missed`.
    """

    def __init__(self, meter: Meter, hertz: float = HERTZ) -> None:
        self.meter = meter
        self.hertz = hertz
        self.times: list[float] = []
        self.readings: list[Reading] = []
        self.missed = 0
        self.failure = ""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True, name="energy sampler")

    def run(self) -> None:
        """Read until stopped, at random gaps; a late reading is not caught up."""
        rng = random.Random(0)
        due = time.perf_counter()
        while not self.stop.wait(max(due - time.perf_counter(), 0)):
            self.look()
            due = max(due + rng.uniform(*GAPS) / self.hertz, time.perf_counter())

    def look(self) -> None:
        """One reading."""
        start = time.perf_counter()
        try:
            reading = self.meter.read()
        except OSError as err:
            self.missed += 1
            self.failure = str(err)
            return
        self.times.append((start + time.perf_counter()) / 2)
        self.readings.append(reading)

    def __enter__(self) -> Sampler:
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.look()  # so that the readings span everything that was done inside


def running_joules(sampler: Sampler) -> dict[str, np.ndarray]:
    """Joules since the first reading, by rail, float64 [n]: counters as they are, watts integrated by trapezoids.

    Raises DhoxError where the sensor failed too often.
    """
    readings, asked = sampler.readings, len(sampler.readings) + sampler.missed
    if len(readings) < 3 or sampler.missed > MOST_MISSED * asked:
        raise DhoxError(
            f"{sampler.meter.name}: {sampler.missed} of {asked} readings failed ({sampler.failure or 'too few'}).",
            "Look at the kernel's messages (sudo dmesg), or measure without energy.",
        )
    times = np.array(sampler.times)
    joules = {}
    for rail in sampler.meter.rails:
        if readings[0].joules is not None:
            counted = np.array([reading.joules[rail] for reading in readings if reading.joules is not None])
            joules[rail] = counted - counted[0]
        else:
            watts = np.array([reading.watts[rail] for reading in readings if reading.watts is not None])
            joules[rail] = integral(times, watts)
    return joules


def integral(seconds: np.ndarray, watts: np.ndarray) -> np.ndarray:
    """Joules from the first sample to each, float64 [n], by trapezoids; seconds and watts [n], n >= 1."""
    steps = np.diff(seconds) * (watts[1:] + watts[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


def between(seconds: np.ndarray, joules: np.ndarray, start: float, end: float) -> float:
    """Joules from `start` to `end`, where the running total is known at `seconds`."""
    return float(np.interp(end, seconds, joules) - np.interp(start, seconds, joules))


def _power_over_time(sampler: Sampler, joules: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from the first reading, and the power of the total in watts; float64 [n] both.

    Where the meter only counts energy, its differences over bins of TRACE_S.
    """
    times = np.array(sampler.times)
    seconds = times - times[0]
    if all(reading.watts is not None for reading in sampler.readings):
        total = sampler.meter.total
        watts = [sum(reading.watts[rail] for rail in total) for reading in sampler.readings if reading.watts]
        return seconds, np.array(watts)
    edges = np.linspace(0, seconds[-1], max(int(seconds[-1] / TRACE_S), 1) + 1)
    watts = np.diff(np.interp(edges, seconds, joules)) / np.diff(edges)
    return (edges[1:] + edges[:-1]) / 2, watts


def measure_idle(meter: Meter, seconds: float = 10.0, settle_s: float = 2.0, hertz: float = HERTZ) -> IdlePower:
    """Power while this process only waits.

    Do it before the artefacts run, in the state that they start from; `settle_s` lets earlier work fade. Raises
    DhoxError where the sensor fails.
    """
    time.sleep(settle_s)
    start = time.perf_counter()
    with Sampler(meter, hertz) as sampler:
        time.sleep(seconds)
    end = time.perf_counter()
    joules, times = running_joules(sampler), np.array(sampler.times)
    start, end = max(start, float(times[0])), min(end, float(times[-1]))
    rails_w = {rail: between(times, joules[rail], start, end) / (end - start) for rail in meter.rails}
    return IdlePower(
        seconds=end - start, mean_w=sum(rails_w[rail] for rail in meter.total), rails_w=rails_w, readings=len(times)
    )


def measure_energy(
    meter: Meter,
    cell: Cell,
    idle: IdlePower | None,
    seconds: float = 30.0,
    *,
    accuracy: float | None = None,
    settle_s: float = 3.0,
    hertz: float = HERTZ,
) -> tuple[EnergyRow, Trace]:
    """Energy of a steady loop of a cell's calls: a row of bench.json, and its power over time.

    The loop runs `settle_s` before the window (the rise of power, and of slow sensors, is no part of it) and without a
    pause until `seconds` have passed; the window ends with a completed call, so that images are whole. `accuracy`
    (0..1) of this artefact on this device gives millijoules per correct prediction. Raises DhoxError where the sensor
    fails.
    """
    calls = 0
    with Sampler(meter, hertz) as sampler:
        start = time.perf_counter()
        while time.perf_counter() < start + settle_s:
            cell.call()
        start = end = time.perf_counter()
        while end < start + seconds:
            cell.call()
            calls += 1
            end = time.perf_counter()
    return _energy_row(sampler, cell.key, (start, end), calls, idle, accuracy)


def figures(joules: float, seconds: float, images: int, idle_w: float | None, accuracy: float | None) -> EnergyFigures:
    """What a window's totals say; what needs idle power or accuracy is None without them."""
    mean_w, mj_per_image = joules / seconds, joules / images * 1e3
    net_w = None if idle_w is None else mean_w - idle_w
    return EnergyFigures(
        seconds=seconds, images=images, mean_w=mean_w, idle_w=idle_w, net_w=net_w, mj_per_image=mj_per_image,
        net_mj_per_image=None if net_w is None else net_w * seconds / images * 1e3,
        images_per_joule=images / joules if joules > 0 else None,
        mj_per_correct=mj_per_image / accuracy if accuracy else None,
    )  # fmt: skip


def _energy_row(
    sampler: Sampler, key: Key, window: tuple[float, float], calls: int, idle: IdlePower | None, accuracy: float | None
) -> tuple[EnergyRow, Trace]:
    """The row of a window (start, end in seconds of the sampler's clock) in which `calls` ended, and the trace."""
    (start, end), meter = window, sampler.meter
    joules, times = running_joules(sampler), np.array(sampler.times)
    total = np.sum([joules[rail] for rail in meter.total], axis=0)
    seconds, idle_w = end - start, None if idle is None else idle.mean_w
    found = figures(between(times, total, start, end), seconds, calls * key.batch, idle_w, accuracy)
    certain_to = resolution(times, total, start, end, counter=sampler.readings[0].joules is not None)
    third = seconds / 3
    first, last = (between(times, total, at, at + third) for at in (start, end - third))
    flags = {
        "window too short for the sensor": certain_to > RESOLUTION,
        "power drifts": abs(last - first) > DRIFT * abs(first),
        "readings missed": sampler.missed > 0,
        "the sensor did not move": stuck(sampler),
        "not above idle": found.net_w is not None and found.net_w <= 0,
    }
    trace = samples_name("energy", key.model, key.runner, key.batch)
    row = EnergyRow(
        **key._asdict(), **asdict(found), calls=calls, resolution=certain_to, trace=trace,
        rails_w={rail: between(times, joules[rail], start, end) / seconds for rail in meter.rails},
        flags=[flag for flag, raised in flags.items() if raised],
    )  # fmt: skip
    moments, watts = _power_over_time(sampler, total)
    return row, Trace(moments, watts, np.array([start, end]) - times[0])


def stuck(sampler: Sampler) -> bool:
    """Whether every reading of the total was the same: a dead sensor, or a recording."""
    seen = {
        tuple((reading.watts or reading.joules or {}).get(rail) for rail in sampler.meter.total)
        for reading in sampler.readings
    }
    return len(seen) == 1


def resolution(seconds: np.ndarray, joules: np.ndarray, start: float, end: float, counter: bool) -> float:
    """The share of the window's energy that is uncertain because a sensor is read now and then; 1 where that is all.

    A counter may be as old as one of its steps at each border: one over the steps seen. A power sensor misses what
    happens between its readings: the standard error of their mean, from the differences of successive ones, so that
    a slow change counts as none; the random gaps make it an honest one.
    """
    inside = (seconds >= start) & (seconds <= end)
    times, passed = seconds[inside], np.diff(joules[inside])
    if counter:
        return 1 / max(int(np.count_nonzero(passed)), 1)
    if len(passed) < 3 or passed.sum() <= 0:
        return 1.0
    watts = passed / np.diff(times)  # means of two readings each, whose differences have half a reading's variance
    deviation_w = float(np.sqrt(2 * np.mean(np.diff(watts) ** 2)))
    return min(deviation_w / len(watts) ** 0.5 / float(watts.mean()), 1.0)


def energy_content(meter: Meter, idle: IdlePower, rows: list[EnergyRow]) -> Energy:
    """The energy part of bench.json, measured."""
    return Energy(
        meter=meter.name, includes=meter.includes, error=meter.error, error_w=meter.error_w, rails=list(meter.rails),
        total=list(meter.total), estimate=meter.estimate, idle=idle, rows=rows,
    )  # fmt: skip

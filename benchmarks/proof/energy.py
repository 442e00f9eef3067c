"""Does the GPU's energy counter agree with its power readings, under load and at rest?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from dhox.bench.sensors.energy import Sampler, find_meter, integral, running_joules
from proof.record import Aim, Row

SECONDS = 6.0


def rows(tiny: bool) -> Iterator[Row]:
    """Joules of the counter and of power integrated over the same window."""
    meter, reason = find_meter("cpu" if tiny else "cuda")
    if meter is None:
        raise LookupError(reason)
    for what, work in (("at rest", rest), ("under load", load)):
        seconds = 1.0 if tiny else SECONDS
        with Sampler(meter, hertz=50) as sampler:
            work(seconds, "cpu" if tiny else "cuda")
        counter, watts, times = totals(sampler)
        yield Row(subject=what, what="counter", value=counter, unit="J")
        yield Row(subject=what, what="mean power by the counter", value=counter / (times[-1] - times[0]), unit="W")
        if watts is not None:
            integrated = float(integral(times, watts)[-1])
            aim = Aim("at most", 0.05) if what == "under load" else None
            off = abs(counter / integrated - 1)
            yield Row(subject=what, what="power, integrated", value=integrated, unit="J")
            yield Row(subject=what, what="|counter / integrated power - 1|", value=off, aim=aim)
        yield Row(subject=what, what="readings", value=len(times), note=f"{sampler.missed} missed")
    meter.close()


def totals(sampler: Sampler) -> tuple[float, np.ndarray | None, np.ndarray]:
    """Joules between the first and the last reading, watts [readings] where the meter tells them, and seconds."""
    rails, readings = sampler.meter.total, sampler.readings
    if not readings or readings[0].joules is None:
        raise LookupError("this meter has no energy counter")
    joules = running_joules(sampler)
    watts = [sum(reading.watts[rail] for rail in rails) for reading in readings if reading.watts is not None]
    counted = float(sum(joules[rail][-1] for rail in rails))
    return counted, np.array(watts) if len(watts) == len(readings) else None, np.array(sampler.times)


def rest(seconds: float, device: str) -> None:
    """Nothing."""
    time.sleep(seconds)


def load(seconds: float, device: str) -> None:
    """Matrix products in half precision, in bursts of a tenth of a second with as long a rest in every fifth."""
    size = 256 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else torch.float16)
    end, burst = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        until = time.perf_counter() + 0.1
        while time.perf_counter() < until:
            a @ a
            if device != "cpu":
                torch.cuda.synchronize()
        burst += 1
        if burst % 5 == 0:
            time.sleep(0.1)

"""Does the GPU's energy counter agree with its power readings, under load and at rest?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from dhox.bench.sensors.energy import Sampler, find_meter
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
            integral = float(np.trapezoid(watts, times))
            aim = Aim("at most", 0.05) if what == "under load" else None
            off = abs(counter / integral - 1)
            yield Row(subject=what, what="power, integrated", value=integral, unit="J")
            yield Row(subject=what, what="|counter / integrated power - 1|", value=off, aim=aim)
        yield Row(subject=what, what="readings", value=len(times), note=f"{sampler.missed} missed")
    meter.close()


def totals(sampler: Sampler) -> tuple[float, np.ndarray | None, np.ndarray]:
    """Joules between the first and the last reading, watts [readings] where the meter tells them, and seconds."""
    joules = [sum(reading.joules.values()) for reading in sampler.readings if reading.joules is not None]
    watts = [sum(reading.watts.values()) for reading in sampler.readings if reading.watts is not None]
    if len(joules) < 2:
        raise LookupError("this meter has no energy counter")
    return (
        joules[-1] - joules[0],
        np.array(watts) if len(watts) == len(sampler.times) else None,
        np.array(sampler.times),
    )


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

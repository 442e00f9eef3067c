"""What reading power a few times a second costs in accuracy, with an ideal sensor.

    python benchmarks/energy_sampling.py

Simulated loads between 8 W and 14 W: bursts of random length (50 ms on average), and a square wave with the period of
the readings, as a batch that takes 50 ms would give at 20 Hz. The sensor is instantaneous: the worst case, a real one
averages. Energy is integrated as `dhox bench` does (trapezoids, interpolated at the ends of the window), with random
gaps as there and, for the square wave, also on a fixed beat. Prints root mean square errors over 400 windows.
No clock: seconds.
"""

from __future__ import annotations

import numpy as np

from dhox.bench.sensors.energy import GAPS, between, integral

WINDOWS = 400
LOW_W, HIGH_W = 8.0, 14.0
RATES = (1, 5, 10, 20, 50)


def bursts(rng: np.random.Generator, length: float, hertz: float) -> np.ndarray:
    """Times at which the load jumps: after exponential times of 50 ms."""
    return np.cumsum(rng.exponential(0.05, int(length / 0.05 * 2) + 50))


def square(rng: np.random.Generator, length: float, hertz: float) -> np.ndarray:
    """Times at which a load jumps whose period is that of the readings."""
    return rng.uniform(0, 0.5 / hertz) + np.arange(int(2 * length * hertz) + 4) / (2 * hertz)


def relative_error(edges: np.ndarray, times: np.ndarray, start: float, end: float) -> float:
    """Of the energy between start and end, when the load jumps at `edges` and is read at `times`."""
    load = np.where(np.arange(len(edges) + 1) % 2 == 0, LOW_W, HIGH_W)
    known = np.concatenate([[0.0], edges])
    totals = np.concatenate([[0.0], np.cumsum(np.diff(known) * load[:-1])])
    watts = load[np.searchsorted(edges, times, side="right")]
    return between(times, integral(times, watts), start, end) / between(known, totals, start, end) - 1


def main() -> None:
    rng = np.random.default_rng(0)
    for name, load, gaps in (
        ("random bursts, random gaps", bursts, GAPS),
        ("square wave of the readings' period, random gaps", square, GAPS),
        ("square wave of the readings' period, fixed beat", square, (1.0, 1.0)),
    ):
        print(f"{name}\nwindow   " + "".join(f"{hertz:>8} Hz" for hertz in RATES))
        for seconds in (3, 10, 30, 60):
            errors = []
            for hertz in RATES:
                squares = []
                for _ in range(WINDOWS):
                    length = seconds + 4 / hertz
                    times = np.cumsum(rng.uniform(*gaps, int(2 * length * hertz) + 4)) / hertz
                    edges = load(rng, length, hertz)
                    squares.append(relative_error(edges, times, 2 / hertz, 2 / hertz + seconds) ** 2)
                errors.append(np.sqrt(np.mean(squares)))
            print(f"{seconds:>4} s   " + "".join(f"{error:>10.2%} " for error in errors))


if __name__ == "__main__":
    main()

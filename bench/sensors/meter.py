"""What a source of energy readings is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reading:
    """One look at a meter, by rail: running totals in joules (any origin), or power now in watts, or both."""

    joules: dict[str, float] | None
    watts: dict[str, float] | None


class Meter(Protocol):
    """A source of energy readings, opened; `close` it.

    `name`: sensor and rails. `includes`: what is in the figure and what is not. `rails`: all that are read. `total`:
    those whose sum is the figure. `estimate`: the figure is a sum of rails, not one measured input. `error`: the class
    of the sensor's error in words. `error_w`: its constant part in watts, where it can be worked out; it cancels out
    of net figures.
    """

    name: str
    includes: str
    rails: tuple[str, ...]
    total: tuple[str, ...]
    estimate: bool
    error: str
    error_w: float | None

    def read(self) -> Reading:
        """All rails once. Raises OSError where the sensor does not answer."""
        ...

    def close(self) -> None:
        """Give the sensor back."""
        ...

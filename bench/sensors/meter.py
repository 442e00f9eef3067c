"""What a source of energy readings is, and how one is read from a small file of the kernel."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LONGEST = 4096  # bytes: a sysfs file is one page


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


def number(path: Path) -> int:
    """The whole number that the file holds. Raises OSError (`jetson_state` answers None), also for something else.

    Unbuffered: a sensor whose part of the chip is powered down answers EAGAIN, which buffered files hide.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, LONGEST).decode(errors="replace").strip()
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(path)) from err
    finally:
        os.close(descriptor)
    try:
        return int(content)
    except ValueError:
        raise OSError(errno.EINVAL, f"holds {content[:20]!r}, not a number", str(path)) from None

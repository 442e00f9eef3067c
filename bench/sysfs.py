"""Small kernel files (sysfs, procfs), read without Python's buffering."""

from __future__ import annotations

import errno
import os
from pathlib import Path

LONGEST = 4096  # bytes: a sysfs file is one page


def text(path: Path) -> str:
    """What the file holds, stripped. Raises OSError.

    Tegra's sensors answer EAGAIN while their part of the chip is powered down; buffered files turn that into a
    TypeError, os.read into the OSError that it is.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, LONGEST).decode(errors="replace").strip(" \t\r\n\0")
    finally:
        os.close(descriptor)


def number(path: Path) -> int:
    """The whole number that the file holds. Raises OSError, also where it holds something else."""
    content = text(path)
    try:
        return int(content)
    except ValueError:
        raise OSError(errno.EINVAL, f"holds {content[:20]!r}, not a number", str(path)) from None


def text_or_none(path: Path) -> str | None:
    """What the file holds; None where it cannot be read."""
    try:
        return text(path)
    except OSError:
        return None


def number_or_none(path: Path) -> int | None:
    """The number that the file holds; None where it cannot be read or holds something else."""
    try:
        return number(path)
    except OSError:
        return None

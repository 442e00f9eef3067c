"""Where the files of the operating system are: below /, or below DHOX_SYSROOT (recordings of another machine)."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "DHOX_SYSROOT"


def sysroot() -> Path:
    """The root of the machine that is looked at: the environment variable DHOX_SYSROOT, else /."""
    return Path(os.environ.get(VARIABLE) or "/")


def system_path(path: str) -> Path:
    """An absolute path of that machine, for example "/proc/meminfo", as a path on this one."""
    return sysroot() / path.lstrip("/")

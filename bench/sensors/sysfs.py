"""Numbers in small kernel files, or the reason why there is none (dhox.system.jetson_state answers None instead)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

LONGEST = 4096  # bytes: a sysfs file is one page


def number(path: Path) -> int:
    """The whole number that the file holds. Raises OSError, also where it holds something else.

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

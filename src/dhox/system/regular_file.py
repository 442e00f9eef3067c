"""Only regular files are read: a pipe or a device may never end."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def regular(path: Path) -> Path:
    """The same path. Raises OSError where it is missing, or is a folder, a pipe, a socket or a device."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path

"""Only regular files are read: a pipe or a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TypeVar

P = TypeVar("P", str, Path)


def regular(path: P) -> P:
    """The same path. Raises OSError where it is missing, or is a folder, a pipe, a socket or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - of millions of texts no Path is made
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path

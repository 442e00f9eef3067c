"""The files of a bundle: one archive in parts, their SHA-256 sums, and the installer with what it must know."""

from __future__ import annotations

import hashlib
import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from dhox.errors import DhoxError

INSTALLER = Path(__file__).with_name("install.sh")
MOST_PARTS = 1000
CHUNK = 1 << 20


class Parts:
    """A file to write to that becomes NAME.part-000, NAME.part-001, ... of `size` bytes, the last one of what is left.

    `sums`: the SHA-256 of each part by name, once closed.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.sums: dict[str, str] = {}
        self.file: BinaryIO | None = None
        self.hash, self.room = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Write bytes, into as many parts as they take."""
        rest = memoryview(data)
        while rest:
            if self.file is None:
                self.file = self._name(len(self.sums)).open("wb")
                self.hash, self.room = hashlib.sha256(), self.size
            now, rest = rest[: self.room], rest[self.room :]
            self.file.write(now)
            self.hash.update(now)
            self.room -= len(now)
            if not self.room:
                self.close()
        return len(data)

    def close(self) -> None:
        """End the part that is open."""
        if self.file is not None:
            self.file.close()
            self.sums[self._name(len(self.sums)).name] = self.hash.hexdigest()
            self.file = None

    def _name(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.part-{number:03}")


def write_archive(wheels: Path, path: Path, part_bytes: int) -> dict[str, str]:
    """The wheels of a folder as a tar in parts; the parts' SHA-256 by name. Raises DhoxError for too many parts."""
    files = sorted(wheels.glob("*.whl"))
    count = -(-sum(file.stat().st_size for file in files) // part_bytes)
    if count >= MOST_PARTS:
        raise DhoxError(f"The bundle would have {count:,} parts.", "Take larger ones: PART_MB.")
    parts = Parts(path, part_bytes)
    with tarfile.open(mode="w|", fileobj=parts, bufsize=CHUNK) as tar:  # type: ignore[call-overload]
        for file in files:
            tar.add(file, file.name)
    parts.close()
    return parts.sums


def write_installer(folder: Path, settings: Mapping[str, str]) -> None:
    """install.sh: the settings of this bundle as shell variables, then scripts/install.sh."""
    head, body = INSTALLER.read_text(encoding="utf-8").split("# The settings of the bundle stand here.\n")
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    path = folder / "install.sh"
    path.write_text(head + lines + body, encoding="utf-8")
    path.chmod(0o755)

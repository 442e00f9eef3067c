"""Wheels for another machine: which fit its Python, processor and glibc, and which requirements hold there; by pip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from dhox.errors import require

OLDEST_GLIBC = {"aarch64": (2, 17), "x86_64": (2, 5)}  # of the first manylinux wheels
OLD_NAMES = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
UNASKED = ("--no-input", "--disable-pip-version-check")


@dataclass(frozen=True)
class Target:
    """What decides which wheels fit a machine: its Python, processor, glibc, and the onnxruntime it has of its own."""

    python: tuple[int, int]
    machine: str
    glibc: tuple[int, int]
    own_onnxruntime: str | None = None

    def tags(self) -> list[str]:
        """Platform tags of wheels that run there, the newest glibc first."""
        oldest = OLDEST_GLIBC[self.machine]
        versions = [(2, minor) for minor in range(self.glibc[1], oldest[1] - 1, -1)]
        tags = []
        for version in versions:
            tags.append(f"manylinux_{version[0]}_{version[1]}_{self.machine}")
            if version in OLD_NAMES:
                tags.append(f"{OLD_NAMES[version]}_{self.machine}")
        return tags

    def pip_options(self) -> list[str]:
        """What makes pip choose wheels for this machine in place of its own."""
        return [
            "--only-binary=:all:", "--implementation", "cp", "--python-version", f"{self.python[0]}.{self.python[1]}",
            *(word for tag in self.tags() for word in ("--platform", tag)),
        ]  # fmt: skip

    def markers(self) -> dict[str, str]:
        """The values that the markers of requirements have there."""
        version = f"{self.python[0]}.{self.python[1]}"
        return {
            "python_version": version, "python_full_version": f"{version}.0", "platform_machine": self.machine,
            "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
            "implementation_name": "cpython", "platform_python_implementation": "CPython",
        }  # fmt: skip

    def name(self) -> str:
        """A name for folders."""
        return f"cp{self.python[0]}{self.python[1]}-glibc{self.glibc[0]}.{self.glibc[1]}-{self.machine}"


def needed_by(requires: Iterable[str], target: Target, extra: str) -> list[str]:
    """The requirements of a package, as its metadata lists them, that hold on the target, without markers."""
    parse = require("packaging.requirements", "remote").Requirement
    found = []
    for text in requires:
        requirement = parse(text)
        marker = requirement.marker
        if marker is None:
            applies = extra == ""
        else:
            applies = marker.evaluate(target.markers() | {"extra": extra})
            applies = applies and (extra == "" or not marker.evaluate(target.markers() | {"extra": ""}))
        if applies:
            requirement.marker = None
            found.append(str(requirement))
    return found


def canonical(name: str) -> str:
    """A package's name as the index compares it."""
    return str(require("packaging.utils", "remote").canonicalize_name(name))


def run_pip(*words: str) -> subprocess.CompletedProcess[str]:
    """One run of pip, whatever comes of it; -I: no module of the folder that dhox is called in."""
    return subprocess.run(
        [sys.executable, "-I", "-m", "pip", *words, *UNASKED],
        capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def pip_error(done: subprocess.CompletedProcess[str]) -> str:
    """What a run of pip that failed said last."""
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    return said[-1] if said else "pip failed"

"""Commands of the operating system, asked one question each: nothing is typed into them, and none can hang dhox."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dhox.system.sysroot import sysroot

# /usr/sbin is not in the PATH of an SSH session, and nvpmodel lies there.
FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")


@dataclass(frozen=True)
class Answer:
    """What a command said. `code`: exit status, None where it is missing or did not answer; `text`: both outputs."""

    code: int | None
    text: str


def find_command(name: str) -> Path | None:
    """The executable of that name: on the PATH and in the usual folders; below DHOX_SYSROOT, only there."""
    root = sysroot()
    folders = os.pathsep.join(str(root / folder) for folder in FOLDERS)
    if root == Path("/"):
        folders = f"{os.environ.get('PATH', '')}{os.pathsep}{folders}"
    found = shutil.which(name, path=folders)
    return Path(found) if found else None


def ask(*command: str, seconds: float = 10.0) -> Answer:
    """Run a command with nothing on its standard input, in the C locale, for at most `seconds`."""
    path = find_command(command[0])
    if path is None:
        return Answer(None, f"{command[0]} is not on this machine")
    try:
        done = subprocess.run(
            [str(path), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"{' '.join(command)} did not answer within {seconds:g} s")
    except OSError as err:
        return Answer(None, f"{command[0]} could not be run: {err.strerror}")
    return Answer(done.returncode, done.stdout.decode("utf-8", "replace"))

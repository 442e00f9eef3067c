"""The one user-error type, and the seam for optional dependencies."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module
from types import ModuleType

ERROR_LINE = "dhox-error "  # begins the line of an error for another program (`error_line`)


class DhoxError(Exception):
    """A mistake that the user can mend.

    `reason`: what is wrong. `fix`: what to do next, in sentences. The message is both.
    """

    exit_code = 1

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason, self.fix = reason, fix

    def __str__(self) -> str:
        return f"{self.reason} {self.fix}"


class UsageError(DhoxError):
    """The command line itself is incomplete, contradictory, or names what is not there."""

    exit_code = 2


class GateFailedError(DhoxError):
    """The work was done, and a measured result is worse than what was promised."""

    exit_code = 3


class StoppedError(DhoxError):
    """Ctrl-C or its kin ended the command; the message says what was kept."""

    exit_code = 130


def not_there(path: object, fix: str, what: str = "") -> UsageError:
    """The error for a file or folder that the command line names and that is not there; `what`: what it is to be."""
    return UsageError(f"{what}{' ' * bool(what)}{path} does not exist.", fix)


def error_line(err: DhoxError) -> str:
    """An error as one line for another program: ERROR_LINE, then its kind, reason and fix as JSON."""
    return ERROR_LINE + json.dumps({"kind": type(err).__name__, "reason": err.reason, "fix": err.fix})


def dhox_command(*words: object) -> str:
    """`dhox WORDS` as a shell takes it, for a message that says what to run."""
    return shlex.join(["dhox", *map(str, words)])


def run_failure(err: Exception) -> str | None:
    """What a runtime says of a model that it could not run (memory, an operator); None for what looks like a bug."""
    known = isinstance(err, (DhoxError, RuntimeError, MemoryError, OSError))
    if not known and not type(err).__module__.startswith("onnxruntime"):
        return None
    return first_line(err)


def first_line(err: BaseException) -> str:
    """What a runtime says of its failure, without the pages that follow and the places in its C++ code; of a long line
    the beginning and the end, where the reason stands."""
    line = (str(err).strip() or type(err).__name__).splitlines()[0]
    line = re.sub(r"[^\s:]+\.(?:cc|cpp|cu|h):\d+ .*?\) (?:const )?(?:\[with [^]]*\] )?(?=\[?[A-Z])", "", line)
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-195:]}"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or raise a DhoxError that says how to install it."""
    try:
        return import_module(module)
    except ImportError as err:
        raise DhoxError(
            f"{module} could not be imported ({err}).", f"Install it with: pip install 'dhox[{extra}]'"
        ) from err

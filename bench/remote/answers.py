"""What a board answers, checked before anything uses it: it may be broken, or be somebody else's."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from dhox.artefacts.record import Record
from dhox.bench.remote.ssh import printable
from dhox.errors import DhoxError, GateFailedError, StoppedError, UsageError

KINDS = {kind.__name__: kind for kind in (DhoxError, UsageError, GateFailedError, StoppedError)}


class Refusal(Record):
    """Why a board did not do what it was asked for. `kind`: the type of the error there."""

    reason: str
    fix: str
    kind: str = DhoxError.__name__

    def error(self, host: str) -> DhoxError:
        """The same error here."""
        return KINDS.get(self.kind, DhoxError)(f"On {host}: {self.reason}", self.fix)


class Failed(Record):
    """A request may fail; answers to it have no field `error` then."""

    error: Refusal | None = None


class Said(Record):
    """Of a running command: a line that it wrote, or its exit status (negative for a signal) once it ended."""

    out: str = ""
    status: int | None = None


class Done(Record):
    """What was asked for is done."""


T = TypeVar("T")


def read_answer(text: bytes, kind: type[T]) -> T:
    """JSON of a board as a type, with every text made printable. Raises ValueError for what does not fit."""
    try:
        return msgspec.convert(_cleaned(msgspec.json.decode(text)), kind)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _cleaned(value: Any) -> Any:
    """JSON with printable texts."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _cleaned(one) for key, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value

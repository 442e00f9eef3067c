"""JSON files as frozen typed records: read and checked whole at the door, written only if readable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from dhox.artefacts.files import LARGEST_JSON, Head, write_bytes
from dhox.errors import DhoxError
from dhox.system.regular_file import regular
from dhox.type_checking import dataclass_transform

Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]  # plain: never a path
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Interval = tuple[float, float]  # (low, high), 95 %
ShareInterval = tuple[Share, Share]  # the same of a share

AGAIN = "Write it again with the stage that made it."


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True):
    """A JSON object. Unknown fields are passed over when it is read, so that a later minor version may add some."""


class Kind(Record):
    """A record that is a whole file: its subclasses have a field `schema`, a Literal with that one value as default."""


K = TypeVar("K", bound=Kind)
R = TypeVar("R", bound=msgspec.Struct)


def schema_of(kind: type[Kind]) -> str:
    """`dhox.NAME/MAJOR` of a kind of file."""
    return next(str(field.default) for field in msgspec.structs.fields(kind) if field.name == "schema")


def read_head(path: Path) -> Head:
    """Schema, status and time of a JSON file. Raises DhoxError where it is missing or no JSON of dhox."""
    return decode(path, read_text(path), Head)


def read_record(path: Path, kind: type[K]) -> K:
    """Read and validate a whole file. Raises DhoxError that names the file, the field and what was found."""
    content = read_text(path)
    check_schema(path, decode(path, content, Head).schema, schema_of(kind))
    return decode(path, content, kind)


def write_record(path: Path, record: Kind) -> None:
    """Write a record atomically; one that could not be read again is a bug (ValueError, msgspec.ValidationError)."""
    write_bytes(path, record_bytes(record))


def record_bytes(record: Kind) -> bytes:
    """A record as its file holds it: JSON with an indent of 2; NaN and Infinity are refused (ValueError)."""
    content = msgspec.to_builtins(record, enc_hook=_plain_number)
    msgspec.convert(content, type(record))
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _plain_number(value: Any) -> Any:
    """A numpy scalar as Python's own number."""
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(type(value))


def read_text(path: Path) -> bytes:
    """The bytes of a JSON file. Raises DhoxError for what cannot be read or is larger than dhox writes."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise DhoxError(f"{path} is larger than any JSON file of dhox ({LARGEST_JSON:,} bytes).", "Check the path.")
        return regular(path).read_bytes()
    except OSError as err:
        raise DhoxError(f"Could not read {path}: {err.strerror}.", "Check the path.") from err


def decode(path: Path, content: bytes, kind: type[R]) -> R:
    """JSON text as a record. Raises DhoxError for no JSON, and for a field that is missing or wrong."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as err:
        raise DhoxError(f"{path} is not what dhox wrote: {field_error(err, content)}.", AGAIN) from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise DhoxError(f"{path} is not valid JSON ({err}).", AGAIN) from err


def check_schema(path: Path, found: str, wanted: str) -> None:
    """Raise DhoxError where a file is of another kind, or of a major version that this dhox does not read."""
    if found == wanted:
        return
    raise DhoxError(
        f"{path} has the schema {found!r}, this dhox reads {wanted!r}.",
        "Check the path, or write it again with this version."
        if found.split("/")[0] == wanted.split("/")[0]
        else "Check the path.",
    )


def field_error(err: msgspec.ValidationError, content: bytes) -> str:
    """`field: what was expected, what was found` of a validation error."""
    said, _, place = str(err).partition(" - at ")
    found_path = re.search(r"`\$\.?([^`]*)`", place)  # also of "`key` in `$.files`"
    path = found_path[1] if found_path else ""
    found = _look_up(content, path)
    return f"{path or 'the whole file'}: {said[:1].lower()}{said[1:]}{found}"


def _look_up(content: bytes, path: str) -> str:
    """The value that stands at a field path such as `rows[0].n`, for a message; empty where it is not there."""
    try:
        value = json.loads(content)
        for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
            value = value[name] if name else value[int(number)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" ({str(value)[:60]!r} is there)" if not isinstance(value, (dict, list)) else ""

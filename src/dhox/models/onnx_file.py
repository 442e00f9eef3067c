"""What an ONNX file says of itself, read from its bytes without the onnx package (a board has none).

An ONNX file is one protobuf message. Only what trust needs is read: versions, metadata, the names of inputs and
outputs, and every tensor whose values lie in another file. Everything else is skipped by its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.errors import DhoxError
from dhox.system.regular_file import regular

LARGEST_BYTES = 2**31  # a protobuf message holds no more
DEEPEST = 100  # messages within messages: protobuf itself reads no deeper

# Field numbers of onnx.proto: the messages that may hold a TensorProto, as {message: {field: message inside}}.
CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
IR_FIELD, OPSET_FIELD, METADATA_FIELD = 1, 8, 14  # of a model
INPUT_FIELD, OUTPUT_FIELD = 11, 12  # of a graph
EXTERNAL_FIELD = 13  # of a tensor: where its values lie, as (key, value) entries


@dataclass(frozen=True)
class OnnxFile:
    """`opset`: of the default domain. `external`: the files that hold tensors' values, as the file names them."""

    ir: int
    opset: int
    metadata: dict[str, str]
    inputs: list[str]
    outputs: list[str]
    external: list[str]

    def dhox(self, key: str) -> Any:
        """What dhox wrote into the metadata under `key` (JSON), or None where it is missing or no JSON."""
        try:
            return json.loads(self.metadata[f"dhox.{key}"])
        except (KeyError, ValueError, RecursionError):
            return None


class DamagedError(ValueError):
    """The bytes are no ONNX file."""


def read_onnx(content: bytes, name: str) -> OnnxFile:
    """Read the bytes of an ONNX file. Raises DhoxError where they are none, and names the file."""
    if len(content) > LARGEST_BYTES:
        raise _too_large(name, len(content))
    try:
        found = OnnxFile(0, 0, {}, [], [], [])
        return _walk_model(memoryview(content), found)
    except (DamagedError, UnicodeDecodeError) as err:
        raise DhoxError(
            f"{name} is not an ONNX file, or is damaged ({err}).", "Copy the directory again, or export again."
        ) from err


def check_onnx(model: Path | bytes) -> OnnxFile:
    """Read an ONNX file before any runtime does, and refuse what would make a runtime read other files.

    Raises DhoxError for a file that is no ONNX, is larger than 2 GiB, or names external data that is absolute, climbs
    out of the file's own folder (also through a symbolic link), or is missing; for bytes, any external data at all.
    """
    if isinstance(model, bytes):
        found = read_onnx(model, "The ONNX model")
        if found.external:
            raise DhoxError(f"The ONNX model wants the file {found.external[0]!r}, but has no folder.", "Export again.")
        return found
    try:
        size = model.stat().st_size
        if size > LARGEST_BYTES:
            raise _too_large(str(model), size)
        found = read_onnx(regular(model).read_bytes(), str(model))
    except OSError as err:
        raise DhoxError(f"Could not read {model}: {err.strerror}.", "Check the path.") from err
    folder = model.resolve().parent
    for location in found.external:
        path = Path(location)
        inside = "\0" not in location and not path.is_absolute() and (folder / path).resolve().is_relative_to(folder)
        if not inside:
            raise DhoxError(
                f"{model} wants to read {location!r}, outside its own folder, so it is not loaded.",
                "Do not trust this file: export again, or keep the weights inside the ONNX file.",
            )
        if not (folder / path).is_file():
            raise DhoxError(f"{model} keeps weights in {location!r}, which is missing.", "Copy the whole directory.")
    return found


def _too_large(name: str, size: int) -> DhoxError:
    """The error for a file that no exporter of dhox writes."""
    return DhoxError(f"{name} has {size:,} bytes, more than an ONNX file can hold (2 GiB).", "Export again.")


def _walk_model(content: memoryview, found: OnnxFile) -> OnnxFile:
    """Everything that a ModelProto says."""
    ir, opset = 0, 0
    pending: list[tuple[memoryview, str, int]] = [(content, "model", 0)]
    while pending:
        message, kind, depth = pending.pop()
        if depth > DEEPEST:
            raise DamagedError("it is nested too deep")
        for number, value in fields(message):
            if kind == "model" and number == IR_FIELD:
                ir = integer(value)
            elif kind == "model" and number == OPSET_FIELD:
                domain, version = pair(value)
                if text(domain) in ("", "ai.onnx"):
                    opset = integer(version or 0)
            elif kind == "model" and number == METADATA_FIELD:
                key, entry = pair(value)
                found.metadata[text(key)] = text(entry)
            elif kind == "graph" and depth == 1 and number in (INPUT_FIELD, OUTPUT_FIELD):
                names = found.inputs if number == INPUT_FIELD else found.outputs
                names.append(text(pair(value)[0]))
            elif kind == "tensor" and number == EXTERNAL_FIELD:
                key, entry = pair(value)
                if text(key) == "location":
                    found.external.append(text(entry))
            elif number in CHILDREN.get(kind, {}):
                pending.append((block(value), CHILDREN[kind][number], depth + 1))
    if not ir or not opset:
        raise DamagedError("it names no IR version or no opset")
    return OnnxFile(ir, opset, found.metadata, found.inputs, found.outputs, found.external)


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one protobuf message: (number, value), where the value is a number or a block of bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = varint(message, at)
        if key >> 32 or key < 8:  # runtimes cut a longer key to 32 bits, and would then see another field
            raise DamagedError(f"the field number {key >> 3} is impossible")
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == 0:
            value, at = varint(message, at)
        else:
            size, at = (8, at) if wire == 1 else (4, at) if wire == 5 else varint(message, at)
            if wire not in (1, 2, 5):
                raise DamagedError(f"the wire type {wire} is unknown")
            if size > end - at:
                raise DamagedError("it ends too early")
            value, at = message[at : at + size], at + size
        yield number, value


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise DamagedError("it ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DamagedError("a number is too long")


def pair(value: int | memoryview) -> tuple[int | memoryview | None, int | memoryview | None]:
    """Fields 1 and 2 of a small message: a key with its value, or a domain with its version."""
    entries = dict(fields(block(value)))
    return entries.get(1), entries.get(2)


def block(value: int | memoryview | None) -> memoryview:
    """A field that holds bytes."""
    if not isinstance(value, memoryview):
        raise DamagedError("a field has the wrong type")
    return value


def integer(value: int | memoryview | None) -> int:
    """A field that holds a number."""
    if not isinstance(value, int):
        raise DamagedError("a field has the wrong type")
    return value


def text(value: int | memoryview | None) -> str:
    """A field that holds UTF-8 text; missing means empty."""
    return "" if value is None else str(block(value), "utf-8")

"""Protobuf's wire format: the fields of a message, read without the protobuf package (a board has none)."""

from __future__ import annotations

from collections.abc import Iterator


class DamagedError(ValueError):
    """The bytes are no such message."""


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

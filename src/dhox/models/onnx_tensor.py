"""The inputs and outputs of an ONNX graph, read from their ValueInfoProto without the onnx package."""

from __future__ import annotations

from dataclasses import dataclass

from dhox.models.protobuf import block, fields, integer, text

# TensorProto.DataType by number, in numpy's words.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 16: "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output. `dtype`: numpy's word, or "type N"; `shape`: a size, a name, or None where none is given;
    the whole is None where the file does not even tell the rank."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def words(self) -> str:
        """For messages: name, type and shape."""
        shape = "of unknown shape" if self.shape is None else "[" + ", ".join(str(s or "?") for s in self.shape) + "]"
        return f"{self.name!r}, {self.dtype} {shape}"


def described(message: memoryview) -> Tensor:
    """A ValueInfoProto; what is no tensor has the dtype "no tensor"."""
    name, dtype, shape = "", "no tensor", None
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            for kind, content in fields(block(value)):
                if kind == 1:
                    dtype, shape = tensor_type(block(content))
    return Tensor(name, dtype, shape)


def tensor_type(message: memoryview) -> tuple[str, tuple[int | str | None, ...] | None]:
    """(dtype, shape) of a TypeProto.Tensor."""
    dtype, shape = "", None
    for number, value in fields(message):
        if number == 1:
            dtype = DTYPES.get(integer(value), f"type {value}")
        elif number == 2:
            shape = tuple(dimension(block(entry)) for field, entry in fields(block(value)) if field == 1)
    return dtype, shape


def dimension(message: memoryview) -> int | str | None:
    """One dimension: its size, its name, or None."""
    for number, value in fields(message):
        if number == 1:
            return integer(value)
        if number == 2:
            return text(value) or None
    return None

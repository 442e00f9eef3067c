"""What an ONNX file's main graph takes, gives and is made of, read without the onnx package (a board has none).

Read with the functions of `onnx_file`, which also says whether a file may be opened at all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dhox.artefacts.bench_accuracy import Precision
from dhox.errors import DhoxError
from dhox.models.onnx_file import DamagedError, block, check_onnx, fields, integer, text, varint

# TensorProto.DataType by number, in numpy's words.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 16: "bfloat16",
}  # fmt: skip
WEIGHT_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}


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


@dataclass(frozen=True)
class Graph:
    """The main graph. `inputs`: without initialisers that old files list among them. `precision`: what most weights are
    stored as; int8 with Q/DQ. `weights`: how many numbers the initialisers and constants hold, by dtype.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    precision: Precision
    weights: dict[str, int]


def read_graph(path: Path) -> Graph:
    """Read an ONNX file. Raises DhoxError where it is none, is damaged, or reaches out of its folder."""
    check_onnx(path)
    try:
        return walk(path.read_bytes())
    except (DamagedError, UnicodeDecodeError) as err:
        raise DhoxError(f"{path} is not an ONNX file, or is damaged ({err}).", "Copy it again.") from err


def walk(content: bytes) -> Graph:
    """The graph of a ModelProto."""
    graph = next((block(value) for number, value in fields(memoryview(content)) if number == 7), memoryview(b""))
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    weights: Counter[str] = Counter()  # how many numbers, by dtype
    initialisers: set[str] = set()
    quantised = False
    for number, value in fields(graph):
        if number == 1:
            op, constants = node(block(value))
            quantised = quantised or op in QUANTISERS
            for _, dtype, count in constants:
                weights[dtype] += count
        elif number == 5:
            name, dtype, count = tensor(block(value))
            initialisers.add(name)
            weights[dtype] += count
        elif number == 11:
            inputs.append(described(block(value)))
        elif number == 12:
            outputs.append(described(block(value)))
    floats = {dtype: count for dtype, count in weights.items() if dtype in WEIGHT_PRECISIONS}
    stored = WEIGHT_PRECISIONS[max(floats, key=floats.__getitem__)] if floats else "fp32"
    inputs = [entry for entry in inputs if entry.name not in initialisers]
    return Graph(inputs, outputs, "int8" if quantised else stored, dict(weights))


def node(message: memoryview) -> tuple[str, list[tuple[str, str, int]]]:
    """(operator, tensors in its attributes) of a NodeProto."""
    op, constants = "", []
    for number, value in fields(message):
        if number == 4:
            op = text(value)
        elif number == 5:
            constants += [tensor(block(entry)) for field, entry in fields(block(value)) if field == 5]
    return op, constants


def tensor(message: memoryview) -> tuple[str, str, int]:
    """(name, dtype, number of elements) of a TensorProto."""
    name, dtype, dims = "", "", []
    for number, value in fields(message):
        if number == 1:
            dims += numbers(value)
        elif number == 2:
            dtype = DTYPES.get(integer(value), f"type {value}")
        elif number == 8:
            name = text(value)
    return name, dtype, prod(dims)


def numbers(value: int | memoryview) -> list[int]:
    """A repeated number field: one value, or all of them packed."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found


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

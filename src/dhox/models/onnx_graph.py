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
from dhox.models.onnx_file import check_onnx
from dhox.models.onnx_tensor import DTYPES, Tensor, described
from dhox.models.protobuf import DamagedError, block, fields, integer, text, varint

WEIGHT_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}


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

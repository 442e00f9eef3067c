"""Damage to artefacts, field by field and array by array: each must be one error that names the file and the place."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from plain_files import read_json, write_json

from dhox.artefacts.arrays import declared, write_npz
from dhox.artefacts.files import sha256
from dhox.artefacts.record import Kind, Record
from dhox.errors import DhoxError

Place = tuple[str | int, ...]


def places(record: Record, above: Place = ()) -> Iterator[tuple[Place, bool, Any]]:
    """(where, whether it must be there, value) of every field of a record, of its parts, and of the first of each list
    of parts."""
    for field in msgspec.structs.fields(record):
        value, place = getattr(record, field.name), (*above, field.encode_name)
        yield place, field.required, value
        if isinstance(value, Record):
            yield from places(value, place)
        elif isinstance(value, list) and value and isinstance(value[0], Record):
            yield from places(value[0], (*place, 0))


def of_another_type(value: Any) -> Any:
    """A JSON value that no field of this value's type takes."""
    if isinstance(value, str):
        return 5
    return [[7]] if value is None or isinstance(value, Record | dict) else "text"


def every_field_is_checked(path: Path, record: Kind, read: Callable[[], Any]) -> int:
    """Drop and mistype every field of the file `path`, which holds `record`; `read` must raise DhoxError that names the
    file and the field. Returns how many fields there are."""
    whole, found = json.loads(path.read_text()), 0
    for place, required, value in places(record):
        if place in {("schema",), ("status",)}:
            continue
        found += 1
        for change in ("drop", "mistype"):
            if change == "drop" and not required:
                continue
            content = copy.deepcopy(whole)
            part = content
            for step in place[:-1]:
                part = part[step]
            if change == "drop":
                del part[place[-1]]
            else:
                part[place[-1]] = of_another_type(value)
            path.write_text(json.dumps(content))
            with pytest.raises(DhoxError) as error:
                read()
            assert path.name in error.value.reason, (place, change)
            assert str(place[-1]) in error.value.reason, (place, change, error.value.reason)
    path.write_text(json.dumps(whole))
    read()
    return found


def damaged_arrays(arrays: Any) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """(array, damage, content of the .npz) for every array of a record and every kind of damage that it can have."""
    whole = {f.name: v for f in dataclasses.fields(arrays) if (v := getattr(arrays, f.name)) is not None}
    for field in dataclasses.fields(arrays):
        if field.name not in whole:
            continue
        array, wanted = whole[field.name], declared(type(arrays), field.name)
        if field.default is dataclasses.MISSING:
            yield field.name, "missing", {name: part for name, part in whole.items() if name != field.name}
        kinds = {"dtype": array.astype("U9") if array.dtype.kind != "U" else np.zeros(array.shape)}
        if array.dtype.kind == "f":
            kinds["narrow"] = array.astype(np.float16)
            if wanted.finite:
                kinds |= {"nan": np.full_like(array, np.nan), "infinite": np.full_like(array, np.inf)}
        if array.ndim:
            kinds |= {"axis": array[..., None], "short": array[:-1]}
        if wanted.low is not None:
            kinds["low"] = np.full_like(array, wanted.low - 1)
        if wanted.below is not None:
            kinds["high"] = np.full_like(array, 10**6)
        for kind, other in kinds.items():
            yield field.name, kind, whole | {field.name: other}


def every_array_is_checked(path: Path, arrays: Any, read: Callable[[], Any]) -> int:
    """Damage every array of the file `path`, which holds `arrays`; `read` must raise DhoxError that names the file.
    Returns how many damages there are."""
    whole, found = path.read_bytes(), 0
    for name, kind, content in damaged_arrays(arrays):
        found += 1
        write_npz(path, content)
        with pytest.raises(DhoxError) as error:
            read()
        assert path.name in error.value.reason, (name, kind)
        assert kind == "short" or name in error.value.reason, (name, kind, error.value.reason)
    for content in (b"", whole[: len(whole) // 2], whole[:-30], bytes(len(whole))):
        path.write_bytes(content)
        with pytest.raises(DhoxError, match=path.name):
            read()
    path.write_bytes(whole)
    read()
    return found


def answer_no_numbers(export: Path) -> None:
    """Make the biases of model.onnx no numbers, in a file that the manifest describes."""
    graph = onnx.load(export / "model.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    onnx.save(graph, export / "model.onnx")
    manifest = read_json(export / "manifest.json")
    entry = next(entry for entry in manifest["artefacts"] if entry["file"] == "model.onnx")
    entry |= {"sha256": sha256(export / "model.onnx"), "bytes": (export / "model.onnx").stat().st_size}
    write_json(export / "manifest.json", manifest)

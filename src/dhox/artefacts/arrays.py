"""NPZ files as frozen records of arrays: dtype, named dimensions and range are declared, and checked at the door."""

from __future__ import annotations

import dataclasses
import types
import zipfile
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from dhox.artefacts.files import LARGEST_NPZ, write_files
from dhox.artefacts.record import AGAIN
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

STORED_FROM = 1 << 24  # bytes of an array that is not compressed: logits hardly shrink, and take hours to try


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a file.

    `dtype`: numpy's name (`float32`), or `str` for texts. `shape`: dimensions by name (`N C`), the same name being the
    same length in the whole file; a digit is that length; empty: a single value. `low`, `high`: inclusive bounds of
    whole numbers; `below`: the name of the dimension that they must stay below. Floating-point values are finite
    unless `finite` is False.
    """

    dtype: str
    shape: str
    low: float | None = None
    high: float | None = None
    below: str | None = None
    finite: bool = True


A = TypeVar("A")


def read_arrays(path: Path, kind: type[A], **dimensions: int) -> A:
    """Read an .npz whose arrays are the fields of the dataclass `kind`, each Annotated with an `Array`.

    `dimensions`: lengths that are known from elsewhere, such as C from the manifest. A field with a default may be
    missing. `kind.__post_init__` may check across arrays; the text of its ValueError follows the file's name. Raises
    DhoxError that names the file, the array, what was found and what was expected.
    """
    stored = read_npz(path)
    known = dict(dimensions)
    values: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in stored:
            if field.default is dataclasses.MISSING:
                raise DhoxError(f"{path} holds no array {field.name}.", AGAIN)
            continue
        problem = mismatch(stored[field.name], declared(kind, field.name), known)
        if problem is not None:
            raise DhoxError(f"{path}: the array {field.name} {problem}.", AGAIN)
        values[field.name] = stored[field.name]
    try:
        return kind(**values)
    except ValueError as err:
        raise DhoxError(f"{path} {err}.", AGAIN) from err


def write_arrays(path: Path, arrays: Any, **dimensions: int) -> None:
    """Write a record of arrays atomically; None is left out. Equal arrays give equal bytes. A bug raises ValueError.

    `dimensions`: lengths that no array shows.
    """
    known = dict(dimensions)
    present = {}
    for field in dataclasses.fields(arrays):
        array = getattr(arrays, field.name)
        if array is None:
            continue
        problem = mismatch(np.asarray(array), declared(type(arrays), field.name), known)
        if problem is not None:
            raise ValueError(f"{type(arrays).__name__}.{field.name} {problem}")
        present[field.name] = np.asarray(array)
    write_npz(path, present)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz of arrays by name, atomically and without a copy in memory; large ones are not compressed."""
    assert not any(array.dtype.hasobject for array in arrays.values()), "an object array would be a pickle"

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date
                member.compress_type = zipfile.ZIP_STORED if array.nbytes >= STORED_FROM else zipfile.ZIP_DEFLATED
                with archive.open(member, "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)

    write_files({path: write})


def declared(kind: type, name: str) -> Array:
    """The `Array` of a field, from `Annotated[np.ndarray, Array(...)]`, with or without `| None`."""
    hint = get_type_hints(kind, include_extras=True)[name]
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    assert get_origin(hint) is Annotated, f"{kind.__name__}.{name} declares no Array"
    return next(extra for extra in get_args(hint) if isinstance(extra, Array))


def mismatch(array: np.ndarray, wanted: Array, known: dict[str, int]) -> str | None:
    """What is wrong with an array, in words; None where nothing is. Adds the lengths of new dimensions to `known`."""
    dtype = "str" if array.dtype.kind == "U" else array.dtype.name
    names = wanted.shape.split()
    if dtype != wanted.dtype:
        return f"is {dtype}, {wanted.dtype} was expected"
    lengths = [int(name) if name.isdecimal() else known.get(name) for name in names]
    if array.ndim != len(names) or any(w not in (None, n) for w, n in zip(lengths, array.shape, strict=True)):
        told = [name if length is None else f"{name} = {length}" for name, length in zip(names, lengths, strict=True)]
        return f"has the shape {list(array.shape)}, [{', '.join(told)}] was expected"
    known.update({name: n for name, n in zip(names, array.shape, strict=True) if not name.isdecimal()})
    if array.dtype.kind == "f" and wanted.finite and not np.isfinite(array).all():
        return "holds values that are not finite"
    high = wanted.high if wanted.below is None else known[wanted.below] - 1
    if array.size and wanted.low is not None and array.min() < wanted.low:
        return f"holds {array.min()}, below {wanted.low:g}"
    if array.size and high is not None and array.max() > high:
        return f"holds {array.max()}, above {high:g}"
    return None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz; nothing in it may run code, or expand it by more than LARGEST_NPZ bytes.

    Raises DhoxError for what is missing or damaged, before memory is taken for an array that its bytes cannot fill, and
    for what memory cannot hold.
    """
    try:
        with zipfile.ZipFile(regular(path)) as members:
            size = sum(member.file_size for member in members.infolist())
            allowed = LARGEST_NPZ + path.stat().st_size
            if size > allowed:
                raise DhoxError(
                    f"{path} would expand to {size:,} bytes (allowed: {allowed:,}); dhox did not write it.",
                    "Delete it, and write it again with the stage that made it.",
                )
            return {
                member.filename.removesuffix(".npy"): _read_member(members, member) for member in members.infolist()
            }
    except DhoxError:
        raise
    except MemoryError as err:
        raise DhoxError(f"{path} needs {size:,} bytes of memory.", "Read it on a machine that has them.") from err
    except Exception as err:  # zipfile and numpy raise many types on damaged bytes (zlib.error ...)
        raise DhoxError(f"{path} is missing or damaged ({err}).", AGAIN) from err


def _read_member(members: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of an archive. Raises ValueError where its header does not fit the bytes that follow."""
    with members.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        n_bytes = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds objects")
    if any(n < 0 for n in shape) or n_bytes != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f"{member.filename} does not hold what its header says")
    with members.open(member) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()  # to its end, where zipfile compares its checksum
    return array

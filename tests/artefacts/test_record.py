"""Records and arrays in general: what is read, what is refused, what an error says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from refusals import refuses

from dhox.artefacts.arrays import Array, read_arrays, write_arrays
from dhox.artefacts.common import Accuracy
from dhox.artefacts.record import Count, Kind, Name, Record, Share, read_head, read_record, write_record
from dhox.errors import DhoxError


class Part(Record):
    name: Name
    share: Share


class Whole(Kind, kw_only=True):
    schema: Literal["dhox.whole/2"] = "dhox.whole/2"
    n: Count
    parts: list[Part]
    note: str | None = None


@dataclass(frozen=True, eq=False)
class Arrays:
    x: Annotated[np.ndarray, Array("float32", "N C")]
    y: Annotated[np.ndarray, Array("int64", "N", low=0, below="C")]
    kind: Annotated[np.ndarray, Array("str", "")]
    more: Annotated[np.ndarray, Array("float32", "M 3", finite=False)] | None = None


WHOLE = Whole(n=2, parts=[Part("a", 0.5), Part("é", 1.0)])


def refused(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DhoxError) as error:
        read_record(path, Whole)
    assert path.name in error.value.reason
    return error.value.reason


def test_a_record_is_read_back_and_fields_of_a_later_minor_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    write_record(path, WHOLE)
    assert read_record(path, Whole) == WHOLE
    content = json.loads(path.read_text()) | {"later": [1, 2]}
    content["parts"][0]["later"] = {}
    path.write_text(json.dumps(content))
    assert read_record(path, Whole) == WHOLE
    assert read_head(path).schema == "dhox.whole/2"


def test_an_error_names_the_file_the_field_and_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    write_record(path, WHOLE)
    text = path.read_text()
    for old, new, named in (
        ('"n": 2', '"n": "two"', ["n", "two"]),
        ('"n": 2', '"n": -1', ["n", "-1"]),
        ('"share": 0.5', '"share": 1.5', ["parts[0].share", "1.5"]),
        ('"name": "a"', '"name": ""', ["parts[0].name"]),
        ('"name": "a",', "", ["parts[0]", "name"]),
        ('"n": 2', '"n": NaN', []),
        ('"n": 2', '"n": 1e999', []),
        ("dhox.whole/2", "dhox.whole/3", ["dhox.whole/3", "dhox.whole/2"]),
        ("dhox.whole/2", "dhox.other/2", ["dhox.other/2"]),
    ):
        assert old in text
        reason = refused(path, text.replace(old, new, 1))
        assert all(part in reason for part in named), (reason, named)
    for content in ("", "[]", "7", "[" * 100_000, text[:-10], b"\xff" + text.encode(), "\0" * 50):
        refused(path, content)
    path.unlink()
    with refuses("whole.json", "No such file", at="artefacts.record.read_text"):
        read_record(path, Whole)


def test_a_record_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    for wrong in (
        Whole(n=-1, parts=[]),
        Whole(n=0, parts=[Part("", 0.5)]),
        Whole(n=0, parts=[Part("a", float("nan"))]),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - msgspec's or json's
            write_record(tmp_path / "whole.json", wrong)
    assert not list(tmp_path.iterdir())


def arrays(n: int = 3, classes: int = 2) -> Arrays:
    return Arrays(np.zeros((n, classes), np.float32), np.zeros(n, np.int64), np.array("linear"))


def test_arrays_are_checked_against_known_lengths(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", arrays())
    assert read_arrays(tmp_path / "a.npz", Arrays, N=3, C=2).more is None
    with refuses("a.npz", "x", "[3, 2]", "C = 5", at="artefacts.arrays.read_arrays"):
        read_arrays(tmp_path / "a.npz", Arrays, C=5)
    write_arrays(tmp_path / "a.npz", Arrays(**vars(arrays()) | {"more": np.full((7, 3), np.nan, np.float32)}))
    assert read_arrays(tmp_path / "a.npz", Arrays).more is not None


def test_arrays_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    for change in (
        {"y": np.full(3, 2)}, {"y": np.zeros(4, np.int64)}, {"x": np.zeros((3, 2))}, {"kind": np.array(["a"])},
        {"x": np.full((3, 2), np.inf, np.float32)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(change))):
            write_arrays(tmp_path / "a.npz", Arrays(**vars(arrays()) | change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ends", "fits"), [((0, 1), True), ((0.2, 1.1), False), ((-0.1, 0.9), False), ((0, 1e308), False)]
)
def test_the_interval_of_a_share_lies_between_0_and_1(ends: tuple[float, float], fits: bool) -> None:
    """compare squares it."""
    content = {"n": 10, "correct": 5, "accuracy": 0.5, "interval": ends}
    if fits:
        assert msgspec.convert(content, Accuracy).interval == ends
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(content, Accuracy)

"""Contract files: what the ONNX file of a classifier that dhox did not export takes and gives (TOML, docs/sweep.md)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.common import Preprocessing, Side
from dhox.artefacts.record import Kind, Name, Positive, Record, check_schema, field_error, schema_of
from dhox.data.dataset import read_class_file
from dhox.errors import DhoxError
from dhox.options.recipe import read_toml

ADVICE = "docs/sweep.md shows a whole contract, key by key."
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]


class InputPart(Record, forbid_unknown_fields=True):
    """[input]. `dtype`: uint8 pixels are taken as they are, floats after [preprocessing]. bgr: blue comes first."""

    name: Name
    layout: Literal["nchw", "nhwc"]
    dtype: Literal["float32", "float16", "uint8"]
    colour: Literal["rgb", "bgr"]


class PreprocessingPart(Record, forbid_unknown_fields=True):
    """[preprocessing]. `resize`: of the shorter side (squash: of both). `range`: a white pixel before mean and std."""

    fit: Literal["crop", "squash"]
    resize: Side
    crop: Side
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    range: float
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"crop = {self.crop} is more than resize = {self.resize}, the length of the shorter side")
        if self.range not in (1, 255):
            raise ValueError(f"range = {self.range:g} is neither 1 nor 255, the value of a white pixel")
        if not all(map(isfinite, (*self.mean, *self.std))):
            raise ValueError("mean and std are not all finite numbers")


class OutputPart(Record, forbid_unknown_fields=True):
    """[output]: a tensor [B, C]."""

    name: Name
    kind: Literal["logits", "probs"]


class ContractFile(Kind, kw_only=True, forbid_unknown_fields=True):
    """The whole file. `classes`: names in index order, or a file beside the contract with one name per line."""

    schema: Literal["dhox.contract/1"] = "dhox.contract/1"
    classes: list[Name] | Name
    input: InputPart
    preprocessing: PreprocessingPart
    output: OutputPart


@dataclass(frozen=True)
class Contract:
    """A contract with its class list read, and its mean and std for pixels in [0, 1]."""

    file: Path
    input: InputPart
    preprocessing: Preprocessing
    output: OutputPart
    classes: list[str]


def read_contract_file(file: Path) -> ContractFile:
    """Read a contract file. Raises DhoxError for a missing, unknown or wrong key, and names it."""
    content = read_toml(file, "contract", ADVICE)
    check_schema(file, str(content.get("schema", "")), schema_of(ContractFile))
    try:
        return msgspec.convert(content, ContractFile)
    except msgspec.ValidationError as err:
        raise DhoxError(f"{file}: {field_error(err, msgspec.json.encode(content))}.", ADVICE) from err


def read_contract(file: Path) -> Contract:
    """A contract file with its class list. Raises DhoxError for what `read_contract_file` refuses, and for the list."""
    content = read_contract_file(file)
    steps = content.preprocessing
    mean, std = (
        (numbers[0] / steps.range, numbers[1] / steps.range, numbers[2] / steps.range)
        for numbers in (steps.mean, steps.std)
    )
    preprocessing = Preprocessing(steps.resize, steps.crop, steps.interpolation, mean, std, steps.fit == "squash")
    return Contract(file, content.input, preprocessing, content.output, class_names(file, content.classes))


def class_names(file: Path, given: list[str] | str) -> list[str]:
    """The class names of a contract: as given, or of the file that it names."""
    if isinstance(given, str):
        path = file.parent / given
        if not path.is_file():
            raise DhoxError(f"{file} names the class list {path}, which is missing.", "Write it: one name per line.")
        given = [name for name, _ in read_class_file(path)]
    repeated = next((name for name in given if given.count(name) > 1), None) if len(set(given)) < len(given) else None
    if len(given) < 2 or repeated is not None:
        wrong = f"names {repeated!r} twice" if repeated else f"has {len(given)} names, and a classifier two or more"
        raise DhoxError(f"{file}: classes {wrong}.", "Mend it.")
    return given

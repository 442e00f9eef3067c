"""The contract of a classifier that dhox did not export: a TOML file that says what its ONNX file takes and gives.

Nothing is guessed here: what the ONNX file itself declares must agree with the contract, or the model is refused.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.common import LARGEST_SIDE, Preprocessing
from dhox.data.dataset import read_class_file
from dhox.data.images import INTERPOLATIONS
from dhox.errors import DhoxError
from dhox.models.onnx_graph import Graph, Tensor, read_graph
from dhox.options.recipe import read_toml

CONTRACT_SCHEMA = "dhox.contract/1"
LAYOUTS, DTYPES = ("nchw", "nhwc"), ("float32", "float16", "uint8")
COLOURS, OUTPUTS, FITS = ("rgb", "bgr"), ("logits", "probs"), ("crop", "squash")
ADVICE = "`dhox contract MODEL.onnx` drafts a whole one."
# Every key, by its table ("" is the top) -> the type of its value. All of them must be there.
KEYS: dict[str, dict[str, type]] = {
    "": {"schema": str, "classes": list},
    "input": {"name": str, "layout": str, "dtype": str, "colour": str},
    "preprocessing": {
        "fit": str,
        "resize": int,
        "crop": int,
        "interpolation": str,
        "range": float,
        "mean": list,
        "std": list,
    },
    "output": {"name": str, "kind": str},
}
WORDS = {str: "a text in quotes", int: "a whole number", float: "a number", list: "a list"}


@dataclass(frozen=True)
class Contract:
    """What a classifier takes and gives.

    `layout`: nchw or nhwc. `dtype`: of the input, uint8, float32 or float16; uint8 pixels are taken as they are, and
    floats after `preprocessing`, whose mean and std are for pixels in [0, 1] here. `bgr`: blue comes first. `kind`: of
    the output, logits or probs, [B, C]. `classes`: names in index order, as the folders of DATA call them.
    """

    file: Path
    input_name: str
    layout: str
    dtype: str
    bgr: bool
    preprocessing: Preprocessing
    output_name: str
    kind: str
    classes: list[str]


def read_contract(file: Path) -> Contract:
    """Read a contract file, schema dhox.contract/1.

    Raises DhoxError for a missing or unknown key and for a value of a wrong type or out of range.
    """
    content = read_toml(file, "contract", ADVICE)
    if content.get("schema") != CONTRACT_SCHEMA:
        found = content.get("schema")
        raise DhoxError(f'{file} has the schema {found!r}, this dhox reads "{CONTRACT_SCHEMA}".', f"{ADVICE}")
    check_keys(file, content)
    given, steps, output = content["input"], content["preprocessing"], content["output"]
    check_one_of(file, "input.layout", given["layout"], LAYOUTS)
    check_one_of(file, "input.dtype", given["dtype"], DTYPES)
    check_one_of(file, "input.colour", given["colour"], COLOURS)
    check_one_of(file, "output.kind", output["kind"], OUTPUTS)
    return Contract(
        file, given["name"], given["layout"], given["dtype"], given["colour"] == "bgr",
        preprocessing_of(file, steps), output["name"], output["kind"], classes_of(file, content["classes"]),
    )  # fmt: skip


def check_keys(file: Path, content: dict[str, Any]) -> None:
    """Raise DhoxError where a key is unknown or missing, or its value has the wrong type."""
    tables = {name: content.get(name) for name in KEYS if name}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise DhoxError(f"{file} lacks the section [{name}].", f"{ADVICE}")
    top = {key: value for key, value in content.items() if key not in tables}
    for name, table in ({"": top} | tables).items():
        assert table is not None
        prefix, known = (f"{name}." if name else ""), KEYS[name]
        for key, value in table.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                meant = f"Did you mean {prefix}{near[0]}?" if near else f"Known there: {', '.join(known)}."
                raise DhoxError(f"{file} has the unknown key {prefix}{key}.", f"{meant}")
            check_value(file, prefix + key, value, known[key])
        missing = [prefix + key for key in known if key not in table]
        if missing:
            raise DhoxError(f"{file} lacks the key {missing[0]}.", f"{ADVICE}")


def check_value(file: Path, key: str, value: Any, kind: type) -> None:
    """Raise DhoxError where a value has the wrong type; a list of classes may also be the name of a file."""
    allowed: tuple[type, ...] = {float: (int, float), list: (list, str) if key == "classes" else (list,)}.get(
        kind, (kind,)
    )
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise DhoxError(f"{file}: {key} = {value!r} should be {WORDS[kind]}.", "Mend it.")


def check_one_of(file: Path, key: str, value: str, allowed: tuple[str, ...] | dict[str, Any]) -> None:
    """Raise DhoxError where a text is none of the known ones."""
    if value not in allowed:
        raise DhoxError(f"{file}: {key} = {value!r} is unknown.", f"Use one of: {', '.join(allowed)}.")


def preprocessing_of(file: Path, steps: dict[str, Any]) -> Preprocessing:
    """The section [preprocessing], with mean and std for pixels in [0, 1]."""
    check_one_of(file, "preprocessing.fit", steps["fit"], FITS)
    check_one_of(file, "preprocessing.interpolation", steps["interpolation"], INTERPOLATIONS)
    resize, crop, scale = steps["resize"], steps["crop"], float(steps["range"])
    if not 1 <= crop <= resize <= LARGEST_SIDE:
        raise DhoxError(
            f"{file}: the crop of {crop} pixels must lie in 1 to resize = {resize}, and that within {LARGEST_SIDE:,}. "
            "resize is the length of the shorter side.",
            "Mend it.",
        )
    if scale not in (1.0, 255.0):
        raise DhoxError(
            f"{file}: preprocessing.range = {steps['range']!r} is the value of a white pixel before mean and std.",
            "Use 1 or 255.",
        )
    values = {}
    for key in ("mean", "std"):
        numbers = steps[key]
        plain = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers)
        if not plain or len(numbers) != 3 or not all(-1e6 < number < 1e6 for number in numbers):
            raise DhoxError(f"{file}: preprocessing.{key} = {numbers!r} should be three numbers.", "Mend it.")
        values[key] = (numbers[0] / scale, numbers[1] / scale, numbers[2] / scale)
    if not all(number > 0 for number in values["std"]):
        raise DhoxError(f"{file}: preprocessing.std = {steps['std']!r} must be above 0.", "Mend it.")
    squash = steps["fit"] == "squash"
    return Preprocessing(resize, crop, steps["interpolation"], values["mean"], values["std"], squash)


def classes_of(file: Path, given: list[Any] | str) -> list[str]:
    """The class names: a list, or a file with one name per line beside the contract."""
    if isinstance(given, str):
        path = file.parent / given
        if not path.is_file():
            raise DhoxError(f"{file} names the class list {path}, which is missing.", "Write it: one name per line.")
        given = [name for name, _ in read_class_file(path)]
    if not all(isinstance(name, str) and name for name in given):
        raise DhoxError(f"{file}: classes should be names in quotes.", "Mend it.")
    repeated = sorted({name for name in given if given.count(name) > 1}) if len(set(given)) < len(given) else []
    if len(given) < 2 or repeated:
        wrong = f"names {repeated[0]!r} twice" if repeated else f"has {len(given)} names, and a classifier two or more"
        raise DhoxError(f"{file}: classes {wrong}.", "Mend it.")
    return given


def check_model(model: Path, contract: Contract) -> tuple[Graph, int | None]:
    """Hold a model file against its contract: what the file declares, and its fixed batch size (None: any).

    Raises DhoxError where a name, dtype, side, or the number of classes contradicts the file.
    """
    graph, file = read_graph(model), contract.file
    taken = named(graph.inputs, contract.input_name, f"{file}: input.name", model, "takes")
    given = named(graph.outputs, contract.output_name, f"{file}: output.name", model, "gives")
    if len(graph.inputs) > 1:
        more = ", ".join(entry.words() for entry in graph.inputs)
        raise DhoxError(
            f"{model} takes {len(graph.inputs)} inputs ({more}); dhox measures one image input.", "Export that."
        )
    if taken.dtype != contract.dtype:
        raise DhoxError(f"{file}: input.dtype is {contract.dtype}, but {model} takes {taken.words()}.", "Mend it.")
    side = contract.preprocessing.crop
    wanted = (None, 3, side, side) if contract.layout == "nchw" else (None, side, side, 3)
    if taken.shape is not None and not agrees(taken.shape, wanted):
        raise DhoxError(
            f"{file}: layout {contract.layout} and crop {side} mean {shape_words(wanted)}, but {model} takes "
            f"{taken.words()}.",
            "Mend input.layout or preprocessing.crop.",
        )
    count = None if given.shape is None else given.shape[-1] if given.shape else 0
    if given.shape is not None and len(given.shape) != 2:
        raise DhoxError(
            f"{model} gives {given.words()}; a classifier gives [batch, classes].", "Choose another output.name."
        )
    if isinstance(count, int) and count != len(contract.classes):
        raise DhoxError(
            f"{file} names {len(contract.classes)} classes, but {model} gives {count}.",
            "Name every class in index order (a background class too).",
        )
    batch = taken.shape[0] if taken.shape else None
    return graph, batch if isinstance(batch, int) else None


def named(entries: list[Tensor], name: str, key: str, model: Path, verb: str) -> Tensor:
    """The entry of this name. Raises DhoxError that lists those that there are."""
    for entry in entries:
        if entry.name == name:
            return entry
    there = "; ".join(entry.words() for entry in entries) or "nothing"
    raise DhoxError(f"{key} is {name!r}, but {model} {verb} {there}.", "Mend it.")


def agrees(shape: tuple[int | str | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a declared shape may hold the wanted one; names and unknown sizes agree with every size."""
    return len(shape) == len(wanted) and all(
        not isinstance(found, int) or size is None or found == size for found, size in zip(shape, wanted, strict=True)
    )


def shape_words(shape: tuple[int | None, ...]) -> str:
    """[batch, 3, 224, 224]."""
    return "[" + ", ".join("batch" if size is None else str(size) for size in shape) + "]"

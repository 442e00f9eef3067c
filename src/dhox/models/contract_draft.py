"""`dhox contract MODEL.onnx`: a contract file with all that the model's file tells, and every guess marked as one."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhox.artefacts.common import LARGEST_SIDE
from dhox.artefacts.files import write_bytes
from dhox.data.dataset import read_class_file
from dhox.data.images import INTERPOLATIONS
from dhox.errors import DhoxError
from dhox.models.contract import CONTRACT_SCHEMA, DTYPES
from dhox.models.onnx_graph import Graph, Tensor, read_graph

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
USUAL_SIDE = 224
MOST_LISTED = 50  # class names written into the contract itself; more go into a file beside it
LONGEST_NAMES = 2**20  # characters of a list of names in a file's metadata
GUESS = "GUESS, check: "


@dataclass(frozen=True)
class Draft:
    """A drafted contract. `guesses`: keys that the file does not tell. `missing`: the class list to write, if any, with
    the number of names that it needs (None where the file does not tell)."""

    text: str
    guesses: list[str]
    missing: tuple[str, int | None] | None
    names: list[str] | None


@dataclass(frozen=True)
class Told:
    """What the metadata of a known exporter adds; `source` names it, empty for none."""

    source: str = ""
    names: list[str] | None = None
    side: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def write_draft(model: Path, out: Path, classes: Path | None, overwrite: bool) -> Draft:
    """Draft the contract of an ONNX file into `out`, and a class list beside it where its metadata holds many names.

    `classes`: a file with one name per line, in index order. Raises DhoxError for a file that is no ONNX classifier of
    square images, and where `out` is there already.
    """
    if out.exists() and not overwrite:
        raise DhoxError(f"{out} exists.", "Add --overwrite to draft it again, or choose another --out.")
    if classes is not None:
        read_class_file(classes)
    drafted = draft(read_graph(model), model, out, classes)
    if drafted.names is not None:
        # A comma would end the name (see read_class_file), a tab ends it first.
        write_bytes(class_list(out), "".join(f"{name}\t{name}\n" for name in drafted.names).encode())
    write_bytes(out, drafted.text.encode())
    return drafted


def class_list(out: Path) -> Path:
    """The class list beside a contract."""
    return out.with_name(f"{out.stem}.classes.txt")


def draft(graph: Graph, model: Path, out: Path, classes: Path | None) -> Draft:
    """The contract of a graph."""
    if len(graph.inputs) != 1 or not graph.outputs:
        raise DhoxError(
            f"{model} takes {len(graph.inputs)} inputs and gives {len(graph.outputs)} outputs; dhox measures "
            "classifiers of one image input.",
            "Export such a graph.",
        )
    image, told = graph.inputs[0], metadata_of(graph.metadata)
    if image.dtype not in DTYPES:
        raise DhoxError(
            f"{model} takes {image.words()}; dhox feeds {', '.join(DTYPES)}.", "Export it with one of them."
        )
    layout, side, layout_note, side_note = layout_of(image, told, model)
    output, output_note = output_of(graph, model)
    count = output.shape[-1] if output.shape and isinstance(output.shape[-1], int) else None
    kind, kind_note = kind_of(graph.last_op[output.name])
    if told.source == "dhox":
        kind, kind_note = "probs", "from the metadata (dhox)"
    names, written, classes_line, missing = classes_of(told, count, out, classes)

    source = f"from the metadata ({told.source})"
    usual = GUESS + "the usual one of networks trained on ImageNet"
    resize = told.resize or side
    mean, std = told.mean or IMAGENET[0], told.std or IMAGENET[1]
    notes = {
        "input.name": "from the file",
        "input.layout": layout_note,
        "input.dtype": "from the file",
        "input.colour": GUESS + "rgb, or bgr where the images came from OpenCV",
        "preprocessing.fit": GUESS + "crop (the shorter side to resize) or squash (both sides)",
        "preprocessing.resize": source
        if told.resize
        else GUESS + "shorter side in pixels; often 256 for a crop of 224",
        "preprocessing.crop": side_note,
        "preprocessing.interpolation": source if told.interpolation else GUESS + ", ".join(INTERPOLATIONS),
        "preprocessing.range": GUESS + "a white pixel before mean and std: 1 or 255",
        "preprocessing.mean": source if told.mean else usual,
        "preprocessing.std": source if told.std else usual,
        "output.name": output_note,
        "output.kind": kind_note,
    }
    if told.source in {"dhox", "Ultralytics"}:
        notes |= dict.fromkeys(("input.colour", "preprocessing.range", "preprocessing.fit"), source)
    if image.dtype == "uint8":
        notes |= dict.fromkeys(("preprocessing.range", "preprocessing.mean", "preprocessing.std"), "unused for uint8")
    values: dict[str, Any] = {
        "input.name": image.name, "input.layout": layout, "input.dtype": image.dtype, "input.colour": "rgb",
        "preprocessing.fit": "crop", "preprocessing.resize": resize, "preprocessing.crop": side,
        "preprocessing.interpolation": told.interpolation or "bilinear", "preprocessing.range": 1,
        "preprocessing.mean": list(mean), "preprocessing.std": list(std),
        "output.name": output.name, "output.kind": kind,
    }  # fmt: skip
    maker = printable(graph.producer) or "an exporter that it does not name"
    batch = image.shape[0] if image.shape and isinstance(image.shape[0], int) else "free"
    lines = [
        f"# What {printable(model.name)} takes and gives, for dhox bench --contract; drafted by dhox contract. What",
        "# the file does not tell is marked GUESS. A wrong guess costs accuracy without any error: compare each with",
        "# the code that the model was trained by.",
        f"# The file: {graph.precision} weights, made by {maker}; batch size {batch}.",
        "",
        f'schema = "{CONTRACT_SCHEMA}"',
        *classes_line,
    ]
    section = ""
    for key, value in values.items():
        if not key.startswith(f"{section}."):
            section = key.split(".")[0]
            lines += ["", f"[{section}]"]
        text = f"{key.split('.')[1]} = {toml(value)}"
        lines.append(f"{text:<32}  # {printable(notes[key])}")
    guesses = [key for key, note in notes.items() if note.startswith(GUESS)]
    return Draft("\n".join(lines) + "\n", guesses, missing, names if written else None)


def layout_of(image: Tensor, told: Told, model: Path) -> tuple[str, int, str, str]:
    """(layout, side in pixels, where each comes from)."""
    shape = image.shape
    if shape is None or len(shape) != 4:
        raise DhoxError(
            f"{model} takes {image.words()}, not a batch of images in four dimensions.", "Export such a graph."
        )
    first, last = shape[1] == 3, shape[3] == 3
    if 1 in (shape[1], shape[3]) and not (first or last):
        raise DhoxError(
            f"{model} takes {image.words()}, images of one channel; dhox feeds three.", "Export it for RGB."
        )
    if not (first or last) and any(isinstance(size, int) for size in (shape[1], shape[3])):
        raise DhoxError(
            f"{model} takes {image.words()}; no dimension is the 3 colours of an image.", "Export it for RGB."
        )
    layout = "nhwc" if last and not first else "nchw"
    note = "from the file's shape" if first != last else GUESS + "nchw or nhwc"
    height, width = shape[1:3] if layout == "nhwc" else shape[2:4]
    sides = {size for size in (height, width) if isinstance(size, int)}
    if len(sides) > 1:
        raise DhoxError(f"{model} takes {image.words()}; dhox measures square inputs.", "Export it for a square.")
    if sides:
        return layout, sides.pop(), note, "from the file"
    if told.side:
        return layout, told.side, note, f"from the metadata ({told.source})"
    return layout, USUAL_SIDE, note, GUESS + "the file takes every size"


def output_of(graph: Graph, model: Path) -> tuple[Tensor, str]:
    """The output that holds the classes, and where that comes from."""
    flat = [entry for entry in graph.outputs if entry.shape is None or len(entry.shape) == 2]
    if not flat:
        there = "; ".join(entry.words() for entry in graph.outputs)
        raise DhoxError(f"{model} gives {there}; a classifier gives [batch, classes].", "Export such a graph.")
    if len(graph.outputs) == 1:
        return flat[0], "from the file"
    return flat[0], GUESS + "one of " + ", ".join(entry.name for entry in graph.outputs)


def kind_of(last_op: str) -> tuple[str, str]:
    """(logits or probs, why)."""
    if last_op == "Softmax":
        return "probs", "the graph ends with Softmax"
    if last_op in {"Gemm", "MatMul", "Add", "Conv"}:
        return "logits", f"the graph ends with {last_op}"
    return "logits", GUESS + f"logits or probs; the graph ends with {last_op or 'no operator'}"


def classes_of(
    told: Told, count: int | None, out: Path, classes: Path | None
) -> tuple[list[str] | None, bool, list[str], tuple[str, int | None] | None]:
    """(names, whether they go into a file of their own, lines of the contract, the list that the user must write)."""
    if classes is not None:
        beside = classes.resolve().parent == out.resolve().parent
        return None, False, [f"classes = {toml(classes.name if beside else str(classes.resolve()))}"], None
    if told.names is not None and count in (None, len(told.names)):
        if len(told.names) > MOST_LISTED:
            note = f"# {len(told.names)} names from the metadata ({told.source})"
            return told.names, True, [f"classes = {toml(class_list(out).name)}  {note}"], None
        names = [f"    {toml(name)}," for name in told.names]
        return told.names, False, [f"classes = [  # from the metadata ({told.source})", *names, "]"], None
    name = class_list(out).name
    number = "all" if count is None else str(count)
    line = f"classes = {toml(name)}  # a list, or a file: write {number} names, one per line, in index order"
    return None, False, [line], None if class_list(out).exists() else (name, count)


def metadata_of(metadata: dict[str, str]) -> Told:
    """What the metadata of dhox, Ultralytics, or timm's names for a configuration tell; only what is plausible."""
    if "dhox.classes" in metadata:
        steps, names = literal(metadata.get("dhox.preprocessing")), literal(metadata["dhox.classes"])
        return told_by("dhox", steps if isinstance(steps, dict) else {}, names, "crop")
    if metadata.get("task") == "classify":  # Ultralytics: softmax over pixels in [0, 1], no mean and std
        size = literal(metadata.get("imgsz"))
        steps = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}
        side = size[0] if isinstance(size, (list, tuple)) and size and size[0] == size[-1] else None
        return told_by("Ultralytics", steps | {"side": side, "resize": side}, literal(metadata.get("names")), "side")
    if {"mean", "std", "input_size"} <= metadata.keys():
        steps = {key: literal(metadata.get(key)) for key in ("mean", "std", "crop_pct")}
        size = literal(metadata["input_size"])
        side = size[-1] if isinstance(size, (list, tuple)) and size else None
        share = steps["crop_pct"]
        resize = int(side / share) if isinstance(side, int) and isinstance(share, float) and 0 < share <= 1 else None
        steps |= {"interpolation": metadata.get("interpolation"), "side": side, "resize": resize}
        return told_by("timm's names", steps, literal(metadata.get("label_names", "")), "side")
    return Told()


def told_by(source: str, steps: dict[str, Any], names: Any, side_key: str) -> Told:
    """Plain values of a metadata, each only where it is what it should be."""
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)] if all(isinstance(key, int) for key in names) else None
    listed = (
        isinstance(names, (list, tuple))
        and len(names) > 1
        and all(isinstance(n, str) and n.strip() and n.isprintable() for n in names)
    )

    def side(key: str) -> int | None:
        value = steps.get(key)
        return value if type(value) is int and 1 <= value <= LARGEST_SIDE else None

    def three(key: str) -> tuple[float, ...] | None:
        value = steps.get(key)
        plain = isinstance(value, (list, tuple)) and len(value) == 3 and all(type(v) in (int, float) for v in value)
        return tuple(float(v) for v in value) if plain and value is not None else None

    kernel = steps.get("interpolation")
    return Told(
        source, list(names) if listed else None, side(side_key), side("resize"),
        kernel if isinstance(kernel, str) and kernel in INTERPOLATIONS else None, three("mean"), three("std"),
    )  # fmt: skip


def literal(text: str | None) -> Any:
    """A JSON text or a Python literal, as exporters write them; None for anything else. Nothing is executed."""
    if text is None or len(text) > LONGEST_NAMES:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def printable(text: str) -> str:
    """A text of a foreign file, for a comment: one line without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def toml(value: Any) -> str:
    """A text, a number or a list of them in TOML, which reads JSON's forms of these."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

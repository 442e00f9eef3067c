"""A contract held against the ONNX file that it describes: nothing is guessed, what contradicts the file is refused."""

from __future__ import annotations

from pathlib import Path

from dhox.artefacts.contract import Contract
from dhox.errors import DhoxError
from dhox.models.onnx_graph import Graph, Tensor, read_graph


def check_model(model: Path, contract: Contract) -> tuple[Graph, int | None]:
    """Hold a model file against its contract: what the file declares, and its fixed batch size (None: any).

    Raises DhoxError where a name, dtype, side, or the number of classes contradicts the file.
    """
    graph, file = read_graph(model), contract.file
    taken = named(graph.inputs, contract.input.name, f"{file}: input.name", model, "takes")
    given = named(graph.outputs, contract.output.name, f"{file}: output.name", model, "gives")
    if len(graph.inputs) > 1:
        more = ", ".join(entry.words() for entry in graph.inputs)
        raise DhoxError(
            f"{model} takes {len(graph.inputs)} inputs ({more}); dhox measures one image input.", "Export that."
        )
    if taken.dtype != contract.input.dtype:
        raise DhoxError(
            f"{file}: input.dtype is {contract.input.dtype}, but {model} takes {taken.words()}.", "Mend it."
        )
    side = contract.preprocessing.crop
    wanted = (None, 3, side, side) if contract.input.layout == "nchw" else (None, side, side, 3)
    if taken.shape is not None and not agrees(taken.shape, wanted):
        raise DhoxError(
            f"{file}: layout {contract.input.layout} and crop {side} mean {_shape_words(wanted)}, but {model} takes "
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


def _shape_words(shape: tuple[int | None, ...]) -> str:
    """[batch, 3, 224, 224]."""
    return "[" + ", ".join("batch" if size is None else str(size) for size in shape) + "]"

"""The gate on where a written graph runs: nothing may compute with the batch size, nothing may fall back to the CPU.

ONNX Runtime's CUDA provider puts Shape and what follows it on the CPU, with a copy at each border, and then refuses
CUDA graphs: a ViT was four times slower for it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dhox.data.dataset import shorten
from dhox.errors import GateFailedError, require
from dhox.export.graphs.known_students import CHOOSE_ANOTHER
from dhox.runtimes.onnxruntime_api import PROVIDERS, nodes_run, open_session, why_not

GATED = {"fp32", "fp16"}
SIZE_OPS = {"Shape", "Size"}
FILLED = {"ConstantOfShape", "Expand", "Tile"}  # they end in data again


def check_placement(
    precision: str, content: bytes, batch: np.ndarray, another: str = CHOOSE_ANOTHER
) -> dict[str, int] | str:
    """Both gates on the bytes of a graph; `batch`: what its input takes, with at least one image.

    The number of nodes by provider, or "not run: REASON" where ONNX Runtime has no CUDA. Raises GateFailedError naming
    the nodes, with the advice `another`.
    """
    nodes = shape_arithmetic(content)
    if nodes:
        raise GateFailedError(
            f"The {precision} graph computes with the batch size in {len(nodes)} nodes, which a GPU leaves to the CPU: "
            f"{shorten(nodes, 5)}.",
            f"{another} Please report this one.",
        )
    return cuda_placement(precision, content, batch, another)


def shape_arithmetic(content: bytes) -> list[str]:
    """Nodes of an ONNX file that compute with sizes of activations, as "Op name", in the order of the graph.

    Shape and Size themselves, every node that takes what they give, and so on through nodes that take nothing but such
    values and constants, up to those that make data of them. A Reshape to constants with one -1 is none, nor is a
    Gather at a constant place.
    """
    onnx = require("onnx", "export")
    graph = onnx.load_from_string(content).graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    sizes: set[str] = set()
    found = []
    for node in graph.node:
        if node.op_type in SIZE_OPS or sizes & set(node.input):
            found.append(f"{node.op_type} {node.name}".strip())
            if node.op_type in SIZE_OPS or (set(node.input) <= sizes | constants and node.op_type not in FILLED):
                sizes |= set(node.output)
        elif set(node.input) <= constants:
            constants |= set(node.output)
    return found


def cuda_placement(
    precision: str, content: bytes, batch: np.ndarray, another: str = CHOOSE_ANOTHER
) -> dict[str, int] | str:
    """Number of nodes by provider in one run on CUDA, or "not run: REASON".

    Raises GateFailedError where a node of an fp32 or fp16 graph ran anywhere but on CUDA; int8 is for
    TensorRT, and ONNX Runtime need not have a CUDA kernel for each of their nodes.
    """
    if reason := why_not(PROVIDERS["cuda"]):
        return f"not run: no {PROVIDERS['cuda']} ({reason})"
    try:
        nodes = profiled_nodes(content, batch, "cuda")
    except Exception as err:  # ONNX Runtime's own exceptions share no type
        return f"not run: {str(err).split('. ')[0]}"
    strangers = [f"{op} {name} ({provider})" for name, op, provider in nodes if provider != PROVIDERS["cuda"]]
    if strangers and precision in GATED:
        raise GateFailedError(
            f"{len(strangers)} of the {len(nodes)} nodes of the {precision} graph do not run on {PROVIDERS['cuda']}: "
            f"{shorten(strangers, 5)}.",
            f"{another} Please report this one.",
        )
    return dict(Counter(provider for _, _, provider in nodes))


def profiled_nodes(content: bytes, batch: np.ndarray, device: str) -> list[tuple[str, str, str]]:
    """(name, operator, provider) of every node that ONNX Runtime ran for one batch, after its own fusions."""
    with TemporaryDirectory() as folder:
        session = open_session(content, device, profile=Path(folder, "profile"))
        session.run(["probs"], {"image": batch})
        return nodes_run(session)

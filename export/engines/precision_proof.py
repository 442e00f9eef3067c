"""Which precision an engine computes in: as the parsed network is typed, and as the compiled engine says itself.

Both count what costs the time: convolutions and matrix products. The compiler fuses and renames layers, but says which
ONNX nodes each of them came from, so every node of the graph is looked up in the engine by its name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

from dhox.artefacts.engine import CompiledPrecision, ParsedPrecision, Products
from dhox.errors import GateFailedError

PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")  # members of LayerType
NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}  # members of DataType
# What inspectors call them: "Half", "Channel major FP16 format where channel % 8 == 0", "BFloat16", "Float", ...
WORDS = {"fp16": r"Half|FP16", "bf16": r"BFloat16|BF16", "int8": r"Int8", "fp32": r"Float|FP32"}
PRODUCT_LAYER = re.compile(r"conv|correlation|gemm|matri|matmul|fusion|mha|attention", re.IGNORECASE)
SLACK = 0.05  # of the share that the graph promises, which fusion may hide
LOG_LAYER = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>.*?), Inputs: \[(?P<Inputs>.*?)\], "
    r"Constants: \[(?P<Constants>.*?)\], Outputs: \[(?P<Outputs>.*?)\], TacticName: .*?Metadata: ?(?P<Metadata>.*)$",
    re.MULTILINE,
)
LOG_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(?P<dimensions>[^\]]*)\].*?Datatype: (?P<type>\w+)")


def network_products(network: Any) -> dict[str, str]:
    """The precision of every convolution and matrix product of a parsed, strongly typed network, by layer name.

    A layer whose inputs come from DequantizeLinear is int8: TensorRT fuses the pair.
    """
    producers = {}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        for i in range(layer.num_outputs):
            producers[layer.get_output(i).name] = layer
    found = {}
    for layer in layers:
        if layer.type.name in PRODUCTS:
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
            sources = [producers.get(tensor.name) for tensor in inputs if tensor is not None]
            quantised = bool(sources) and all(_is_dequantised(source, producers) for source in sources[:2])
            types = {tensor.dtype.name for tensor in (inputs[0], layer.get_output(0))}
            found[layer.name] = "int8" if quantised else NAMES.get(types.pop(), "other") if len(types) == 1 else "mixed"
    return found


def _is_dequantised(layer: Any, producers: dict[str, Any]) -> bool:
    """Whether a tensor's producer is a DequantizeLinear, maybe transposed or reshaped on the way."""
    while layer is not None and layer.type.name == "SHUFFLE":
        layer = producers.get(layer.get_input(0).name)
    return layer is not None and layer.type.name == "DEQUANTIZE"


def parsed_precision(network: Any, precision: str) -> ParsedPrecision:
    """How many layers give which type, and the share of a precision in the convolutions and matrix products."""
    types = Counter(network.get_layer(i).get_output(0).dtype.name for i in range(network.num_layers))
    products, share = _share_of(network_products(network).values(), precision)
    return ParsedPrecision(layers_by_type=dict(sorted(types.items())), products=products, share=share)


def _share_of(precisions: Iterable[str], precision: str) -> tuple[dict[str, int], float]:
    """Counts of precisions, and the share of one of them (0 where there is nothing to count)."""
    counts = Counter(precisions)
    total = sum(counts.values())
    return dict(sorted(counts.items())), counts[precision] / total if total else 0.0


def layers_of_log(text: str) -> list[dict[str, Any]]:
    """The layers that the builder's log lists, in the form of the inspector's JSON."""
    layers = []
    for found in LOG_LAYER.finditer(text):
        entry: dict[str, Any] = found.groupdict()
        for part in ("Inputs", "Constants", "Outputs"):
            entry[part] = [
                {
                    "Dimensions": [int(n) for n in re.findall(r"-?\d+", operand["dimensions"])],
                    "Datatype": operand["type"],
                }
                for operand in LOG_TENSOR.finditer(entry[part])
            ]
        layers.append(entry)
    return layers


def layers_of_inspector(text: str) -> list[dict[str, Any]]:
    """The layers of EngineInspector.get_engine_information(JSON); those given by name only tell nothing."""
    return [entry for entry in json.loads(text)["Layers"] if isinstance(entry, dict)]


def compiled_precision(
    layers: list[dict[str, Any]], products: dict[str, str], precision: str, source: str
) -> CompiledPrecision | None:
    """The share of a precision in the engine's convolutions and matrix products; None where it does not tell.

    `layers`: of `layers_of_log` or `layers_of_inspector`. `products`: of `network_products`.
    `source`: who lists them. Listed are the nodes that
    the engine computes in another precision than the network states (`differs`: node -> [stated, computed]), and those
    that it does not account for (`hidden`: folded away, or of a type that it does not show); with more than half of
    them hidden, it tells nothing. Compilers do compute a convolution in half precision that is fp32 between two casts.
    """
    by_node: dict[str, list[dict[str, Any]]] = {}
    for entry in layers:
        for name in onnx_nodes(entry):
            by_node.setdefault(name, []).append(entry)
    found: dict[str, str] = {}
    hidden = []
    for node in products:
        candidates = by_node.get(node, [])
        computing = [entry for entry in candidates if PRODUCT_LAYER.search(str(entry.get("LayerType", "")))]
        known = [answer for answer in map(layer_precision, computing or candidates) if answer is not None]
        if known:
            found[node] = known[0] if len(set(known)) == 1 else "mixed"
        else:
            hidden.append(node)
    if 2 * len(hidden) > len(products):
        return None
    differs = {node: (products[node], computed) for node, computed in found.items() if computed != products[node]}
    counts, share = _share_of(found.values(), precision)
    return CompiledPrecision(products=counts, share=share, source=source, differs=differs, hidden=hidden)


def onnx_nodes(entry: dict[str, Any]) -> set[str]:
    """The ONNX nodes that an engine layer came from: its metadata, or the names that its own name joins by ` + `."""
    noted = re.findall(r"\[ONNX Layer: ([^\x1e\x1f]*)\]", entry.get("Metadata", ""))
    return set(noted or entry.get("Name", "").split(" + "))


def layer_precision(entry: dict[str, Any]) -> str | None:
    """The precision that an engine layer multiplies in, by its weights and its data; None where it does not say.

    `mixed` where weights and data differ. Integers that only feed a fused preprocessing do not count.
    """
    data = [tensor_precision(operand) for operand in entry.get("Inputs", [])]
    weights = tensor_precision({"Datatype": entry.get("Weights", {}).get("Type", "")})
    constants = [c for c in entry.get("Constants", []) if prod(c.get("Dimensions", [])) > 1]
    if constants:
        weights = tensor_precision(max(constants, key=lambda constant: prod(constant["Dimensions"])))
    evidence = {weights, data[0] if data else None} if weights is not None else set(data)
    evidence.discard(None)
    if len(evidence) > 1:
        return "mixed"
    return evidence.pop() if evidence else None


def tensor_precision(operand: dict[str, Any]) -> str | None:
    """fp32, fp16, bf16 or int8, of an inspector's operand; None for other types and for "N/A due to dynamic shapes"."""
    text = str(operand.get("Datatype") or operand.get("Format/Datatype") or "")
    for name, words in WORDS.items():
        if re.search(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z0-9])", text):
            return name
    return None


def check_promise(precision: str, parsed: Products, compiled: Products | None, promised: float | None = None) -> None:
    """Raise GateFailedError where an engine does not compute in the precision that was asked for.

    `compiled`: None where it does not tell its precision. `promised`: the share that the export recorded for its file,
    in [0, 1].

    The graph has to be more than half of it (int8: have any, since accuracy may have returned layers to floats), the
    engine as much as the graph, less `SLACK`.
    """
    if precision != "fp32" and (parsed.share == 0 or (precision != "int8" and parsed.share <= 0.5)):
        raise GateFailedError(
            f"{precision} was asked for, but only {parsed.share:.0%} of the convolutions and matrix products in the "
            f"parsed network are {precision} ({tally(parsed)}). Nothing was kept.",
            f"Export the {precision} model again.",
        )
    if promised is not None and parsed.share < promised - SLACK:
        raise GateFailedError(
            f"The export promised {promised:.0%} {precision} convolutions and matrix products, and the parsed network "
            f"has {parsed.share:.0%} ({tally(parsed)}). Nothing was kept.",
            "Report it with the TensorRT version.",
        )
    if compiled is not None and compiled.share < parsed.share - SLACK:
        raise GateFailedError(
            f"{precision} was asked for and the network is typed so ({parsed.share:.0%} of its convolutions and "
            f"matrix products), but in the engine only {compiled.share:.0%} are ({tally(compiled)}). Nothing was kept.",
            "Build without --dla or compatibility options, or report it with the engine's log.",
        )


def tally(record: Products) -> str:
    """The counts of a record in words: 19 fp16, 2 fp32."""
    return ", ".join(f"{count} {name}" for name, count in record.products.items()) or "there are none"

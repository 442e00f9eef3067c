"""Preprocessing nodes in front of an exported graph: one ONNX file from a raw frame to probabilities (no torch)."""

from __future__ import annotations

import numpy as np
import onnx
from msgspec import to_builtins
from onnx import TensorProto, helper

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import Artefact, Manifest, model_metadata
from dhox.errors import DhoxError
from dhox.export.camera.graph import PIXELS, Nodes
from dhox.export.graphs.onnx_contract import finish


def attached(source: bytes, entry: Artefact, manifest: Manifest, camera: Camera, nodes: Nodes) -> bytes:
    """The ONNX file of `entry` with `nodes` in front of it, its input uint8 [batch, *camera.shape]."""
    model = onnx.load_from_string(source)
    graph = model.graph
    if entry.input == "uint8-nhwc":
        _replace_pixels(graph)
    else:
        kept = PIXELS
        if entry.input == "float-nchw":
            kept = _normalised(nodes, manifest.preprocessing)
        _rename_input(graph, "image", kept)
    nodes_after = list(graph.node)
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *camera.shape]))
    graph.node.extend([*nodes.nodes, *nodes_after])
    graph.initializer.extend(nodes.constants)
    metadata = model_metadata(manifest.names, manifest.preprocessing, manifest.fold)
    return finish(model, {**metadata, "camera": to_builtins(camera)}, entry.opset)


def with_pixels(content: bytes) -> bytes:
    """The same file with one output, the pixels that the backbone gets: for checks, never written."""
    model = onnx.load_from_string(content)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["batch", 3, None, None]))
    return model.SerializeToString()


def _replace_pixels(graph: onnx.GraphProto) -> None:
    """What dhox's graphs make of uint8 pixels (Cast, then Transpose to planes) becomes PIXELS."""
    cast = [node for node in graph.node if "image" in node.input]
    turned = [node for node in graph.node if cast and cast[0].output[0] in node.input]
    if [node.op_type for node in cast + turned] != ["Cast", "Transpose"]:
        raise DhoxError("The graph does not begin as dhox writes it.", "Export the run again.")
    for node in cast + turned:
        graph.node.remove(node)
    _rename_input(graph, turned[0].output[0], PIXELS)


def _rename_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _normalised(nodes: Nodes, preprocessing: Preprocessing) -> str:
    """The normalisation that `--input float-nchw` leaves to the caller, as `normalise` computes it."""
    shape = (1, 3, 1, 1)
    mean, std = (np.array(values, np.float64).reshape(shape) for values in (preprocessing.mean, preprocessing.std))
    single = Nodes(np.float32, nodes.nodes, nodes.constants)
    scaled = single.add("Div", PIXELS, single.constant(np.array(255.0)))
    return single.add("Div", single.add("Sub", scaled, single.constant(mean)), single.constant(std))

"""Preprocessing as ONNX nodes: a raw frame to the model's pixels, by two matrix products (no torch).

Pillow resizes 8-bit images by two products, a horizontal and a vertical one, each rounded to 8 bits; both weights are
constant for a camera of known size. rgb, bgr and gray follow it step by step, in its order. Of nv12 and yuyv luma and
chroma are resized apart and become colours at the model's size: linear as well, so that only roundings differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dhox.artefacts.frame import Camera
from dhox.data.frames import rgb_of_yuv
from dhox.export.camera.resampling import Resize

BLOCK = 32  # columns of a product that share a slice of its input
WORTH = 0.5  # a product is cut into blocks where these need less than this share of its multiply-adds
PIXELS = "camera_pixels"  # the tensor that the backbone gets, float [B, 3, crop, crop] of whole numbers


@dataclass
class Nodes:
    """ONNX nodes and constants, one after another, whose products compute in `dtype`; `mac`: their multiply-adds."""

    dtype: type
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    mac: int = 0
    dense_mac: int = 0

    def constant(self, values: np.ndarray) -> str:
        """A constant tensor; floats become `dtype`."""
        name = f"camera_constant_{len(self.constants)}"
        typed: np.ndarray = np.ascontiguousarray(values, self.dtype if values.dtype.kind == "f" else np.int64)
        self.constants.append(numpy_helper.from_array(typed, name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """One node; answers with its output."""
        output = output or f"camera_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def cut(self, tensor: str, axis: int, start: int, end: int) -> str:
        """A slice of one axis."""
        return self.add("Slice", tensor, *(self.constant(np.array([value])) for value in (start, end, axis)))

    def shape(self, tensor: str, *shape: int) -> str:
        """Another shape; 0 keeps the batch."""
        return self.add("Reshape", tensor, self.constant(np.array([0, *shape])))

    def rounded(self, tensor: str, output: str = "") -> str:
        """To whole numbers from 0 to 255, halves up."""
        whole = self.add("Floor", self.add("Add", tensor, self.constant(np.array(0.5))))
        return self.add("Clip", whole, self.constant(np.array(0.0)), self.constant(np.array(255.0)), output=output)

    def product(self, tensor: str, weights: np.ndarray, axis: int, others: int) -> str:
        """Tensor [..., n, m] or [..., m, n] times weights [n, k] along `axis` (the last, or the one before it: -1, -2).

        `others`: how many rows or columns are multiplied, for the account.
        """
        blocks = _blocks(weights)
        needed = sum((end - start) * (stop - first) for first, stop, start, end in blocks) * others
        first, last = _span(weights)
        whole = (last - first) * weights.shape[1] * others
        if needed > WORTH * whole:
            blocks, needed = [(0, weights.shape[1], first, last)], whole
        self.mac, self.dense_mac = self.mac + needed, self.dense_mac + whole
        parts = [self._block(tensor, weights, axis, block) for block in blocks]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=axis)

    def _block(self, tensor: str, weights: np.ndarray, axis: int, block: tuple[int, int, int, int]) -> str:
        first, stop, start, end = block
        part = tensor if (start, end) == (0, len(weights)) else self.cut(tensor, axis, start, end)
        values = weights[start:end, first:stop]
        if axis == -1:
            return self.add("MatMul", part, self.constant(values))
        return self.add("MatMul", self.constant(values.T), part)


def _span(weights: np.ndarray) -> tuple[int, int]:
    """First and last + 1 of the inputs that any column uses."""
    used = np.flatnonzero(weights.any(1))
    return int(used[0]), int(used[-1]) + 1


def _blocks(weights: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Columns [first, stop) that use inputs [start, end), BLOCK columns at a time: the matrix is banded."""
    firsts = range(0, weights.shape[1], BLOCK)
    ends = [min(first + BLOCK, weights.shape[1]) for first in firsts]
    return [(first, stop, *_span(weights[:, first:stop])) for first, stop in zip(firsts, ends, strict=True)]


def frame_to_pixels(camera: Camera, resize: Resize, dtype: type) -> Nodes:
    """Nodes from `image`, uint8 [B, *camera.shape], to PIXELS, float32 [B, 3, crop, crop]; products in `dtype`."""
    nodes = Nodes(dtype)
    # Cast before anything else: TensorRT refuses Slice and MatMul on UINT8.
    frame = nodes.add("Cast", "image", to=TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16)
    planes = _yuv(nodes, frame, camera, resize) if camera.yuv else _colours(nodes, frame, camera, resize)
    if resize.turned:
        planes = nodes.add("Transpose", planes, perm=[0, 1, 3, 2])
    if dtype is not np.float32:
        planes = nodes.add("Cast", planes, to=TensorProto.FLOAT)
    nodes.add("Identity", planes, output=PIXELS)
    return nodes


def _colours(nodes: Nodes, frame: str, camera: Camera, resize: Resize) -> str:
    """rgb, bgr and gray, step by step as Pillow."""
    channels, crop = (len(camera.shape[2:]) and 3) or 1, resize.rows.shape[1]
    if channels == 1:
        frame = nodes.shape(frame, camera.height, camera.width, 1)
    (top, bottom), (left, right) = _span(resize.rows), _span(resize.columns)
    frame = _trimmed(nodes, frame, camera, (top, bottom), (left, right))
    rows, columns = resize.rows[top:bottom], resize.columns[left:right]
    if resize.rows_first:  # of all channels at once, as they lie
        flat = nodes.shape(frame, len(rows), len(columns) * channels)
        flat = nodes.rounded(nodes.product(flat, rows, -2, len(columns) * channels))
        planes = nodes.add("Transpose", nodes.shape(flat, crop, len(columns), channels), perm=[0, 3, 1, 2])
        planes = nodes.rounded(nodes.product(planes, columns, -1, crop * channels))
    else:
        planes = nodes.add("Transpose", frame, perm=[0, 3, 1, 2])
        planes = nodes.rounded(nodes.product(planes, columns, -1, len(rows) * channels))
        planes = nodes.rounded(nodes.product(planes, rows, -2, crop * channels))
    if camera.format == "bgr":
        return nodes.add("Gather", planes, nodes.constant(np.array([2, 1, 0])), axis=1)
    return nodes.add("Concat", planes, planes, planes, axis=1) if channels == 1 else planes


def _trimmed(
    nodes: Nodes, frame: str, camera: Camera, rows: tuple[int, int], columns: tuple[int, int]
) -> str:  # fmt: skip
    """The part of a frame [B, H, W, channels] that any output uses."""
    if rows != (0, camera.height):
        frame = nodes.cut(frame, 1, *rows)
    return frame if columns == (0, camera.width) else nodes.cut(frame, 2, *columns)


def _yuv(nodes: Nodes, frame: str, camera: Camera, resize: Resize) -> str:
    """nv12 and yuyv: rows first, since they lie as they are needed; colours at the model's size."""
    rows, columns, crop, width = resize.rows, resize.columns, resize.rows.shape[1], camera.width
    if camera.format == "nv12":
        stacked = np.zeros((camera.shape[0], crop))
        stacked[: camera.height] = rows
        luma = nodes.product(frame, stacked, -2, width)
        stacked = np.zeros((camera.shape[0], crop))
        stacked[camera.height :] = rows[0::2] + rows[1::2]
        chroma = nodes.product(frame, stacked, -2, width)
    else:
        flat = nodes.product(nodes.shape(frame, camera.height, 2 * width), rows, -2, 2 * width)
        split = nodes.add("Transpose", nodes.shape(flat, crop, width, 2), perm=[0, 3, 1, 2])
        luma, chroma = (nodes.shape(nodes.cut(split, 1, at, at + 1), crop, width) for at in (0, 1))
    matrix, offset = rgb_of_yuv(camera)
    luma = nodes.add("Sub", luma, nodes.constant(np.array(offset[0])))
    chroma = nodes.add("Sub", chroma, nodes.constant(np.array(offset[1])))
    shared = columns[0::2] + columns[1::2]  # both pixels of a pair take the same chroma
    u, v = np.zeros_like(columns), np.zeros_like(columns)
    u[0::2], v[1::2] = shared, shared
    planes = [
        nodes.shape(nodes.product(plane, weights, -1, crop), 1, crop, crop)
        for plane, weights in ((luma, columns), (chroma, u), (chroma, v))
    ]
    yuv = nodes.add("Concat", *planes, axis=1)
    return nodes.rounded(nodes.add("Conv", yuv, nodes.constant(matrix[:, :, None, None])))

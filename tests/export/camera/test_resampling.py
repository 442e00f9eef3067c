"""The matrices against Pillow: to the bit in whole numbers, and by the graph within what float32 can round."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera, Roi
from dhox.data.frames import filmed, frame_input
from dhox.data.images import INTERPOLATIONS
from dhox.export.camera.graph import PIXELS, Nodes, frame_to_pixels
from dhox.export.camera.resampling import PRECISION_BITS, resize_of, resize_weights

KERNELS = ["nearest", "bilinear", "bicubic", "lanczos"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 300), st.sampled_from(KERNELS), st.integers(0, 9))
def test_whole_number_sums_are_pillows_pixels(before: int, after: int, kernel: str, seed: int) -> None:
    row = np.asarray(noise(before, 1, seed))[0]
    expected = np.asarray(Image.fromarray(row[None]).resize((after, 1), INTERPOLATIONS[kernel]))[0]
    fixed = np.rint(resize_weights(before, after, kernel) * (1 << PRECISION_BITS)).astype(np.int64)
    sums = fixed.T @ row.astype(np.int64) + (1 << (PRECISION_BITS - 1))
    assert np.array_equal(np.clip(sums >> PRECISION_BITS, 0, 255), expected)


def seen(camera: Camera, preprocessing: Preprocessing, frame: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """What the graph makes of a frame, [crop, crop, 3]."""
    nodes: Nodes = frame_to_pixels(camera, resize_of(camera, preprocessing), dtype)
    side = preprocessing.crop
    graph = helper.make_graph(
        nodes.nodes, "pixels", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", *camera.shape])],
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["b", 3, side, side])], nodes.constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    both: Any = session.run(None, {"image": np.stack([frame, frame])})[0]
    assert np.array_equal(both[0], both[1])
    return both[0].transpose(1, 2, 0)


@st.composite
def cameras(draw: Any, formats: list[str]) -> Camera:
    kind = draw(st.sampled_from(formats))
    width, height = 2 * draw(st.integers(4, 60)), 2 * draw(st.integers(4, 60))
    yuv = kind in ("nv12", "yuyv")
    colours = {"colour": draw(st.sampled_from(["bt601", "bt709"])), "range": draw(st.sampled_from(["limited", "full"]))}
    camera = Camera(width, height, kind, rotate=draw(st.sampled_from([0, 90, 180, 270])), **(colours if yuv else {}))
    if not draw(st.booleans()):
        return camera
    across, down = camera.upright
    x, y = draw(st.integers(0, across - 3)), draw(st.integers(0, down - 3))
    roi = Roi(x, y, draw(st.integers(3, across - x)), draw(st.integers(3, down - y)))
    return Camera(width, height, kind, camera.colour, camera.range, camera.rotate, roi)


@st.composite
def preprocessings(draw: Any) -> Preprocessing:
    crop = draw(st.integers(1, 70))
    resize = crop + draw(st.integers(0, 20))
    half = (0.5, 0.5, 0.5)
    return Preprocessing(resize, crop, draw(st.sampled_from(KERNELS)), half, half, draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(cameras(["rgb", "bgr", "gray"]), preprocessings(), st.integers(0, 9))
def test_colours_are_pillows(camera: Camera, preprocessing: Preprocessing, seed: int) -> None:
    """Noise is the hardest picture: every rounding counts. Downscaling, upscaling, regions and rotations."""
    frame = filmed(noise(*camera.upright, seed), camera)
    difference = abs(seen(camera, preprocessing, frame) - frame_input(frame, camera, preprocessing))
    assert (difference <= 1).mean() >= 0.995 or difference.max() <= 2
    assert (difference == 0).mean() >= 0.9 or difference.size < 300


@settings(max_examples=60, deadline=None)
@given(cameras(["nv12", "yuyv"]), preprocessings(), st.integers(0, 9))
def test_luma_and_chroma_become_the_same_colours(camera: Camera, preprocessing: Preprocessing, seed: int) -> None:
    """A picture whose colours lie inside RGB, so that clipping before or after the resize is the same."""
    soft = noise(6, 5, seed).resize(camera.upright, Image.Resampling.BILINEAR).point(lambda value: 70 + value * 2 // 5)
    frame = filmed(soft, camera)
    difference = abs(seen(camera, preprocessing, frame) - frame_input(frame, camera, preprocessing))
    assert (difference <= 1).mean() >= 0.995 or (difference.max() <= 2 and difference.size < 600)


@pytest.mark.parametrize("rotate", [0, 90])
@pytest.mark.parametrize("size", [(96, 40), (40, 96), (30, 120), (20, 18)])
def test_products_follow_pillows_order(size: tuple[int, int], rotate: Any) -> None:
    """The other order gives other pixels on a fifth of noise; from Pillow 13.0 on tall pictures begin vertically."""
    camera = Camera(*size, rotate=rotate)
    preprocessing = Preprocessing(12, 10, "lanczos", (0.5,) * 3, (0.5,) * 3)
    frame = filmed(noise(*camera.upright), camera)
    assert (seen(camera, preprocessing, frame) == frame_input(frame, camera, preprocessing)).mean() > 0.99


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["rgb", "nv12"])
def test_half_precision_stays_within_one_level(kernel: str, kind: str) -> None:
    colours = {"colour": "bt709", "range": "limited"} if kind == "nv12" else {}
    camera = Camera(320, 240, kind, **colours)  # type: ignore[arg-type]
    preprocessing = Preprocessing(96, 80, kernel, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    soft = noise(30, 20).resize((320, 240), Image.Resampling.BICUBIC).point(lambda value: 60 + value // 2)
    frame = filmed(soft, camera)
    difference = abs(seen(camera, preprocessing, frame, np.float16) - frame_input(frame, camera, preprocessing))
    assert (difference <= 1).mean() >= 0.995


def test_a_banded_product_is_cut_into_blocks_where_that_pays() -> None:
    large = Camera(640, 480)
    preprocessing = Preprocessing(256, 224, "bilinear", (0.5,) * 3, (0.5,) * 3)
    nodes = frame_to_pixels(large, resize_of(large, preprocessing), np.float32)
    assert nodes.mac < 0.3 * nodes.dense_mac
    small = Camera(24, 24)
    preprocessing = Preprocessing(24, 20, "bicubic", (0.5,) * 3, (0.5,) * 3)
    nodes = frame_to_pixels(small, resize_of(small, preprocessing), np.float32)
    assert nodes.mac == nodes.dense_mac

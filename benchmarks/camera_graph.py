"""Preprocessing in the graph against Pillow and OpenCV: differing pixels, multiply-adds and time, by size and kernel.

    python benchmarks/camera_graph.py PHOTOS [--resize 256 --crop 224] [--photos 8]

PHOTOS: a folder of photographs as large as the frames, or larger. Each becomes a frame of every size and format. All
ways take turns on the same frames, each with all cores; times are medians per frame. Pillow gets the frame as RGB,
after OpenCV's or (without OpenCV) the reference's colour conversion, whose time is not counted; OpenCV's own row counts
it. `dense`: the same graph with whole matrix products in place of blocks. A second table holds NV12 and YUYV, as this
project sees them, against FFmpeg's swscale.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.frame import Camera
from dhox.data.frames import filmed, picture
from dhox.data.images import decode, model_input, placed
from dhox.export.camera import graph
from dhox.export.camera.resampling import resize_of

try:
    import cv2
except ImportError:
    cv2 = None
SIZES = [(1920, 1080), (1280, 720), (640, 480)]
KERNELS = ["bilinear", "bicubic", "lanczos"]
FORMATS = ["rgb", "nv12", "yuyv", "gray"]
ROUNDS = 9


def session_of(camera: Camera, preprocessing: Preprocessing, dense: bool) -> tuple[Any, graph.Nodes]:
    """The preprocessing alone as a session of ONNX Runtime, and its nodes."""
    worth, graph.WORTH = graph.WORTH, 0.0 if dense else graph.WORTH
    nodes = graph.frame_to_pixels(camera, resize_of(camera, preprocessing), np.float32)
    graph.WORTH = worth
    side = preprocessing.crop
    made = helper.make_graph(
        nodes.nodes, "pixels", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", *camera.shape])],
        [helper.make_tensor_value_info(graph.PIXELS, TensorProto.FLOAT, ["b", 3, side, side])], nodes.constants,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]), nodes


def by_opencv(frame: np.ndarray, camera: Camera, preprocessing: Preprocessing) -> np.ndarray:
    """What a user of OpenCV writes: convert, INTER_AREA, centre crop."""
    codes = {"nv12": "COLOR_YUV2RGB_NV12", "yuyv": "COLOR_YUV2RGB_YUY2", "gray": "COLOR_GRAY2RGB"}
    rgb = cv2.cvtColor(frame, getattr(cv2, codes[camera.format])) if camera.format in codes else frame
    size, left, top = placed((camera.width, camera.height), preprocessing)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return small[top : top + preprocessing.crop, left : left + preprocessing.crop]


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each way, in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            found[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(times)) for name, times in found.items()}


def row(camera: Camera, preprocessing: Preprocessing, images: list[Image.Image]) -> str:
    """One row of the table."""
    session, nodes = session_of(camera, preprocessing, dense=False)
    dense, _ = session_of(camera, preprocessing, dense=True)
    differences, times = [], []
    for image in images:
        frame = filmed(image, camera)
        rgb = picture(frame, camera)
        seen = session.run(None, {"image": frame[None]})[0][0].transpose(1, 2, 0)
        differences.append(abs(seen - model_input(rgb, preprocessing)))
        ways: dict[str, Callable[[], object]] = {
            "graph": lambda frame=frame: session.run(None, {"image": frame[None]}),
            "dense": lambda frame=frame: dense.run(None, {"image": frame[None]}),
            "pillow": lambda rgb=rgb: model_input(rgb, preprocessing),
        }
        if cv2 is not None:
            ways["opencv"] = lambda frame=frame: by_opencv(frame, camera, preprocessing)
        times.append(medians(ways))
    found = np.stack(differences)
    ms = {name: float(np.median([one[name] for one in times])) for name in times[0]}
    return (
        f"| {camera.size} | {camera.format} | {preprocessing.interpolation} | {100 * (found > 0).mean():.4f} | "
        f"{100 * (found > 1).mean():.4f} | {found.max():.0f} | {nodes.mac / 1e9:.3f} | {nodes.dense_mac / 1e9:.3f} | "
        f"{ms['graph']:.1f} | {ms['dense']:.1f} | {ms['pillow']:.1f} | {ms.get('opencv', float('nan')):.1f} |"
    )


def swscale_row(camera: Camera, images: list[Image.Image]) -> str:
    """How far FFmpeg's conversion is from the reference, and how the differences lie."""
    import av

    reformatter, name = av.video.reformatter, "nv12" if camera.format == "nv12" else "yuyv422"
    space = getattr(reformatter.Colorspace, "ITU709" if camera.colour == "bt709" else "ITU601")
    differences = []
    for image in images:
        frame = filmed(image, camera)
        video = av.VideoFrame.from_ndarray(frame, format=name)
        video.color_range = 2 if camera.range == "full" else 1
        theirs = video.reformat(format="rgb24", src_colorspace=space).to_ndarray().astype(int)
        differences.append(theirs - np.asarray(picture(frame, camera)).astype(int))
    found = np.stack(differences)
    return (
        f"| {camera.format} | {camera.colour} | {camera.range} | {abs(found).mean():.2f} | {found.mean():+.2f} | "
        f"{np.percentile(abs(found), 99):.0f} | {abs(found).max()} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--photos", dest="count", type=int, default=8)
    given = parser.parse_args()
    paths = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = [decode(path) for path in paths[:: max(1, len(paths) // given.count)][: given.count]]
    opencv = cv2.__version__ if cv2 else "missing"
    versions = f"onnxruntime {onnxruntime.__version__}, Pillow {Image.__version__}, OpenCV {opencv}"
    print(f"{len(images)} photographs, {given.resize} -> {given.crop} px; {os.cpu_count()} cores; {versions}\n")
    print("| frame | format | kernel | differ % | by 2 or more % | largest | GMAC | dense GMAC | graph ms | dense ms | "
          "Pillow ms | OpenCV ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for width, height in SIZES:
        for kind in FORMATS:
            for kernel in KERNELS if kind == "rgb" else KERNELS[:1]:
                colours = ("bt601", "limited") if kind in ("nv12", "yuyv") else (None, None)
                camera = Camera(width, height, kind, *colours)  # type: ignore[arg-type]
                half = (0.5, 0.5, 0.5)
                print(row(camera, Preprocessing(given.resize, given.crop, kernel, half, half), images), flush=True)  # type: ignore[arg-type]
    print("\n| format | colour | range | mean | bias | 99 % | largest |\n|---|---|---|---|---|---|---|")
    for kind in ("nv12", "yuyv"):
        for colour in ("bt601", "bt709"):
            for range_ in ("limited", "full"):
                print(swscale_row(Camera(1280, 720, kind, colour, range_), images), flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""example.py of an export: its CPU model in numpy, Pillow and onnxruntime alone."""

from __future__ import annotations

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.manifest import Artefact, Reject

EXAMPLE_FILE = "example.py"
GRAPH_INPUTS = {  # the line of example.py that turns an RGB image into the graph's input
    "uint8-nhwc": "np.asarray(image)[None]",
    "float-nchw": "((np.asarray(image, np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)[None]",
    "float-nchw-255": "np.asarray(image, np.float32).transpose(2, 0, 1)[None]",
}
SCALED = """
    image = Image.open(path)
    if image.format in ("JPEG", "MPO"):
        image.draft("RGB", (JPEG_SIDE, JPEG_SIDE))"""


def example_text(entry: Artefact, contract: Preprocessing, reject: Reject | None) -> str:
    """A program that preprocesses images as `contract` says, and answers with the file of `entry`."""
    constants = [f"RESIZE, CROP, KERNEL = {contract.resize}, {contract.crop}, Image.Resampling.{contract.interpolation.upper()}"]  # fmt: skip # noqa: E501
    if entry.input == "float-nchw":
        mean, std = list(contract.mean), list(contract.std)
        constants.append(f"MEAN, STD = np.array({mean}, np.float32), np.array({std}, np.float32)")
    opened, decoded = "Image.open(path)", ""
    if contract.jpeg_side is not None:
        constants.append(f"JPEG_SIDE = {contract.jpeg_side}  # JPEGs are decoded at 1/2, 1/4 or 1/8, never below this")
        opened, decoded = "image", SCALED
    answer = "print(path, CLASSES[row.argmax()], round(float(row.max()), 6))"
    if reject is not None:
        constants.append(f"REJECT_BELOW = {reject.threshold!r}  # a lower probability means: unknown")
        answer = (
            'print(path, CLASSES[row.argmax()] if row.max() >= REJECT_BELOW else "unknown", round(float(row.max()), 6))'
        )
    return f'''"""Classify images: python example.py IMAGE ... (numpy, Pillow and onnxruntime; written by dhox)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{chr(10).join(constants)}
SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("{entry.file}"), providers=["CPUExecutionProvider"])
CLASSES = json.loads(SESSION.get_modelmeta().custom_metadata_map["dhox.classes"])


def graph_input(path):{decoded}
    image = ImageOps.exif_transpose({opened})
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    size = [RESIZE if side == min(image.size) else int(RESIZE * side / min(image.size)) for side in image.size]
    image = image.convert("RGB").resize(size, KERNEL)
    left, top = (round((side - CROP) / 2) for side in size)
    image = image.crop((left, top, left + CROP, top + CROP))
    return {GRAPH_INPUTS[entry.input]}


for path in sys.argv[1:]:
    row = SESSION.run(["probs"], {{"image": graph_input(path)}})[0][0]
    {answer}
'''

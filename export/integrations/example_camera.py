"""example_camera.py beside a camera file: raw frames of a device or a file to labels, in numpy and onnxruntime."""

from __future__ import annotations

from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import Precision, Reject

EXAMPLE_CAMERA_FILE = "example_camera.py"
FOURCC = {"rgb": "RGB3", "bgr": "BGR3", "nv12": "NV12", "yuyv": "YUYV", "gray": "GREY"}  # V4L2's names


def example_camera_text(file: str, precision: Precision, camera: Camera, reject: Reject | None) -> str:
    """A program that answers the frames of a V4L2 device (by OpenCV) or of a file of raw frames."""
    answer, constants = "CLASSES[row.argmax()]", ""
    if reject is not None:
        constants = f"REJECT_BELOW = {reject.threshold!r}  # a lower probability means: unknown\n"
        answer += ' if row.max() >= REJECT_BELOW else "unknown"'
    exact = 'OPTIONS.add_session_config_entry("session.disable_quant_qdq", "1")\n' if precision == "int8" else ""
    return f'''"""Classify raw frames ({camera.size} {camera.format}): python example_camera.py [DEVICE NUMBER | FILE]

numpy and onnxruntime; OpenCV for a device. The frames go into the model as they come. Written by dhox.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

SHAPE = {camera.shape}
{constants}MODEL = Path(__file__).with_name("{file}")
OPTIONS = onnxruntime.SessionOptions()
{exact}SESSION = onnxruntime.InferenceSession(MODEL, OPTIONS, providers=["CPUExecutionProvider"])
CLASSES = json.loads(SESSION.get_modelmeta().custom_metadata_map["dhox.classes"])


def device_frames(number):
    import cv2

    device = cv2.VideoCapture(number, cv2.CAP_V4L2)
    keys = (cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_CONVERT_RGB)
    wanted = [cv2.VideoWriter_fourcc(*"{FOURCC[camera.format]}"), {camera.width}, {camera.height}, 0]
    for key, value in zip(keys, wanted):
        device.set(key, value)
    if [int(device.get(key)) for key in keys[:3]] != wanted[:3]:
        raise SystemExit(f"Camera {{number}} does not deliver {camera.size} {camera.format}.")
    while True:
        there, frame = device.read()
        if not there:
            raise SystemExit(f"Camera {{number}} sends no frame.")
        yield frame.reshape(SHAPE)


def file_frames(path):
    content = np.memmap(path, np.uint8, "r")
    if content.size % np.prod(SHAPE):
        raise SystemExit(f"{{path}} is no whole number of frames of {camera.size} {camera.format}.")
    return content.reshape(-1, *SHAPE)


source = sys.argv[1] if len(sys.argv) > 1 else "0"
frames = device_frames(int(source)) if source.isdecimal() else file_frames(source)
for number, frame in enumerate(frames):
    row = SESSION.run(["probs"], {{"image": frame[None]}})[0][0]
    print(number, {answer}, round(float(row.max()), 6))
'''

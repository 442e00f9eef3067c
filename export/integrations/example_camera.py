"""example_camera.py beside a camera file: raw frames of a device or a file to labels, in numpy and onnxruntime."""

from __future__ import annotations

from dhox.artefacts.frame import Camera
from dhox.artefacts.manifest import Reject

EXAMPLE_CAMERA_FILE = "example_camera.py"
FOURCC = {"rgb": "RGB3", "bgr": "BGR3", "nv12": "NV12", "yuyv": "YUYV", "gray": "GREY"}  # V4L2's names


def example_camera_text(file: str, camera: Camera, reject: Reject | None) -> str:
    """A program that answers the frames of a V4L2 device (by OpenCV) or of a file of raw frames."""
    answer, constants = "CLASSES[row.argmax()]", ""
    if reject is not None:
        constants = f"REJECT_BELOW = {reject.threshold!r}  # a lower probability means: unknown\n"
        answer += ' if row.max() >= REJECT_BELOW else "unknown"'
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
SESSION = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
CLASSES = json.loads(SESSION.get_modelmeta().custom_metadata_map["dhox.classes"])


def device_frames(number):
    import cv2

    device = cv2.VideoCapture(number, cv2.CAP_V4L2)
    device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"{FOURCC[camera.format]}"))
    device.set(cv2.CAP_PROP_FRAME_WIDTH, {camera.width})
    device.set(cv2.CAP_PROP_FRAME_HEIGHT, {camera.height})
    device.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # raw
    while True:
        there, frame = device.read()
        if not there:
            raise SystemExit(f"Camera {{number}} sends no frame.")
        if frame.size != np.prod(SHAPE):
            raise SystemExit(f"Camera {{number}} sends {{frame.shape}}, not {camera.size} {camera.format}.")
        yield frame.reshape(SHAPE)


source = sys.argv[1] if len(sys.argv) > 1 else "0"
frames = device_frames(int(source)) if source.isdecimal() else np.fromfile(source, np.uint8).reshape(-1, *SHAPE)
for number, frame in enumerate(frames):
    row = SESSION.run(["probs"], {{"image": frame[None]}})[0][0]
    print(number, {answer}, round(float(row.max()), 6))
'''

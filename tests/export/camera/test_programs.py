"""What takes a camera file besides dhox: its example, alone, and Triton's repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dhox
from dhox.artefacts.frame import Camera
from dhox.data.frames import filmed
from dhox.export.camera.run import add_cameras
from dhox.export.integrations.emit import emit
from dhox.models.camera_files import camera_files
from dhox.models.export_directory import open_export

YUYV = Camera(48, 32, "yuyv", "bt601", "limited", rotate=180)
# The example in a process that has neither dhox nor what it was made with.
ALONE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dhox", "torch", "onnx", "PIL", "cv2"}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def export(line: Path, tmp_path: Path) -> Path:
    shutil.copytree(line / "runs/tiny/export", tmp_path / "export")
    add_cameras(tmp_path / "export", [YUYV], ("fp32",))
    return tmp_path / "export"


def test_the_example_answers_raw_frames_of_a_file(export: Path, line: Path, tmp_path: Path) -> None:
    images = [Image.open(path).convert("RGB") for path in sorted((line / "data/test/bag").iterdir())[:3]]
    frames = np.stack([filmed(image, YUYV) for image in images])
    frames.tofile(tmp_path / "frames.yuyv")
    (one,) = camera_files(open_export(export))
    script = one.folder / "example_camera.py"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(script), str(tmp_path / "frames.yuyv")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = dhox.load(export, "cpu", "fp32")
    probs = model.frame_probs(frames, YUYV)
    expected = [f"{at} {model.classes[row.argmax()]} {round(float(row.max()), 6)}" for at, row in enumerate(probs)]
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [line.split()[:2] for line in expected]
    assert len(script.read_text().splitlines()) <= 50


def test_triton_serves_raw_frames_too(export: Path) -> None:
    add_cameras(export, [YUYV, Camera(64, 48, "nv12", "bt709", "full")], ("fp16",))
    folder = emit(export, "triton")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert names == ["tiny", "tiny_48x32-yuyv-r180-fp16", "tiny_64x48-nv12-bt709-full-fp16"]
    for one in camera_files(open_export(export), "fp16"):
        model = folder / f"tiny_{one.folder.name}"
        config = (model / "config.pbtxt").read_text()
        dims = re.search(r"TYPE_UINT8, dims: \[ ([\d, ]+) \]", config)
        assert dims is not None
        assert tuple(map(int, dims[1].split(","))) == one.camera.shape
        assert (model / "1/model.onnx").read_bytes() == one.onnx().read_bytes()

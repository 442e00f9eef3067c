"""The wheel, and a fresh environment with only what a board needs."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image
from refusals import refuses

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src/dhox/demo"


def test_the_embedded_default_keeps_its_promises() -> None:
    with np.load(DEMO / "fashion_mnist.npz", allow_pickle=False) as archive:
        counts = {split: len(archive[f"{split}_images"]) for split in ("train", "val", "test")}
        assert counts == {"train": 6000, "val": 1000, "test": 3000}
        for split in counts:
            assert set(np.bincount(archive[f"{split}_labels"])) == {counts[split] // 10}
        images = np.concatenate([archive[f"{split}_images"] for split in counts])
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 10_000
    assert (DEMO / "fashion_mnist.npz").stat().st_size <= 6e6
    assert (DEMO / "teacher/open_clip_model.safetensors").stat().st_size <= 10e6
    assert "MIT License" in (DEMO / "LICENSE.fashion-mnist").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_embedded_teacher_is_useful_and_imperfect(tmp_path: Path) -> None:
    import torch

    from dhox.data.dataset import class_names, read_dataset, read_image
    from dhox.demo.data import write_image_folder
    from dhox.distill.teachers.teacher import DEFAULT_TEMPLATES, load_teacher

    (tmp_path / "demo.partial").mkdir()  # a command that was killed at once
    assert write_image_folder(tmp_path / "demo")
    assert not write_image_folder(tmp_path / "demo")
    teacher = load_teacher(f"local-dir:{tmp_path / 'demo/teacher'}", torch.device("cpu"))
    assert isinstance(teacher.model, open_clip.CLIP)
    splits = read_dataset(tmp_path / "demo")
    classes = class_names(splits, None)
    labels = [label for label, _ in classes]
    text = teacher.encode_classes([prompt for _, prompt in classes], list(DEFAULT_TEMPLATES))
    pixels = torch.stack([teacher.transform(read_image(item)) for item in splits["test"]])
    answers = (teacher.encode_images(pixels) @ text.T).argmax(-1).tolist()
    accuracy = np.mean([labels[answer] == item.label for answer, item in zip(answers, splits["test"], strict=True)])
    assert 0.75 <= accuracy <= 0.86


def test_demo_never_writes_into_a_foreign_folder(tmp_path: Path) -> None:
    from dhox.demo.data import write_image_folder

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with refuses("mine", at="demo.data.write_image_folder", fix="--data"):
        write_image_folder(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


@pytest.mark.slow
def test_a_board_installs_the_wheel_and_runs_without_torch(line: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "dhox",
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }
    places = {"dhox": "src/dhox", "dhox/distill": "distill", "dhox/export": "export", "dhox/bench": "bench"}
    there = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert len(there) > 200
    assert {name for name in names if not name.endswith("/") and "dist-info" not in name} == there

    venv.create(tmp_path / "board", with_pip=True)
    python = tmp_path / "board/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"], check=True)
    installed = json.loads(
        subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    )
    assert not {package["name"].lower() for package in installed} & {"torch", "timm", "open-clip-torch", "matplotlib"}
    export = line / "runs/tiny/export"
    dhox = tmp_path / "board/bin/dhox"
    done = subprocess.run(
        [dhox, "bench", export, "--duration", "0.05", "--energy", "0", "--out", "b"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Golden check, fp16 by onnxruntime: passed" in done.stdout
    image = tmp_path / "x.png"
    Image.new("L", (28, 28)).save(image)
    done = subprocess.run([dhox, "predict", export, image, "--json"], check=True, capture_output=True, text=True)
    assert len(json.loads(done.stdout)[0]["top"]) == 3
    done = subprocess.run([dhox, "distill", line / "data"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'dhox[distill]'" in done.stderr

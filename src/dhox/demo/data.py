"""The embedded images as an ordinary image folder, with the teacher beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from dhox.artefacts.files import make_folder
from dhox.errors import DhoxError

HERE = Path(__file__).parent
MARKER = "ABOUT.txt"


def write_image_folder(folder: Path) -> bool:
    """Write train/, val/ and test/ as PNG files and teacher/ below `folder`; False where they are there already.

    Raises DhoxError where `folder` holds something else.
    """
    if (folder / MARKER).exists():
        return False
    if folder.exists() and any(folder.iterdir()):
        raise DhoxError(f"{folder} is not empty and does not hold the demo's images.", "Choose another --data.")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists() and any(partial.iterdir()) and not (partial / MARKER).exists():
        raise DhoxError(f"{partial} is in the way and is not the demo's.", "Move it, or choose another --data.")
    make_folder(partial, "Choose another --data.")  # what a killed command left there is written again
    (partial / MARKER).write_text((HERE / "LICENSE.fashion-mnist").read_text(encoding="utf-8"), encoding="utf-8")
    with np.load(HERE / "fashion_mnist.npz", allow_pickle=False) as archive:
        classes = archive["classes"].tolist()
        for split in ("train", "val", "test"):
            for name in classes:
                (partial / split / name).mkdir(parents=True, exist_ok=True)
            pairs = zip(archive[f"{split}_images"], archive[f"{split}_labels"], strict=True)
            for number, (pixels, label) in enumerate(pairs):
                Image.fromarray(pixels).save(partial / split / classes[label] / f"{number:04d}.png", compress_level=1)
    shutil.copytree(HERE / "teacher", partial / "teacher", dirs_exist_ok=True)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return True

"""What the authors' ways to show an image cost against dhox's: labels and probabilities that change on photographs.

    python benchmarks/evaluation_resize.py PHOTOS --weights efficientnet-lite0-57934424.pth --most 334

PHOTOS: a flat folder with one image per ImageNet class, in the network's order by name; `--most`: how many, spread
evenly. The network, tf_efficientnet_lite0 at 224 px, is another than theirs: the figures are an order of size. Each row
holds one way against another: labels that change, the change of the first way's top probability, accuracy by both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from packed_size import network
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tf

from dhox.data.dataset import spread
from dhox.data.images import decode
from dhox.progress import progress_bar

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
STUDENT, TEACHER = 224, 378  # px
ROWS = [
    ("bicubic", "bilinear"),
    ("bicubic", "random crop"),
    ("bicubic", "bilinear at the teacher's size"),
    ("random crop", "random crop at the teacher's size"),
]


def centre(image: Image.Image, size: int, kernel: InterpolationMode) -> Image.Image:
    """Shorter side to `size`, centre crop."""
    return tf.center_crop(tf.resize(image, size, kernel), size)


def ways(image: Image.Image) -> dict[str, Image.Image]:
    """One image in every way: centre crops, and one random crop and flip, once or twice resized."""
    box = RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3])
    once, large = (tf.resized_crop(image, *box, [size, size], BICUBIC) for size in (STUDENT, TEACHER))
    twice = tf.resize(large, [STUDENT, STUDENT], BICUBIC)
    if torch.rand(1).item() < 0.5:
        once, twice = tf.hflip(once), tf.hflip(twice)
    return {
        "bicubic": centre(image, STUDENT, BICUBIC),
        "bilinear": centre(image, STUDENT, BILINEAR),
        "bilinear at the teacher's size": tf.resize(centre(image, TEACHER, BILINEAR), [STUDENT, STUDENT], BICUBIC),
        "random crop": once,
        "random crop at the teacher's size": twice,
    }


def answers(model: torch.nn.Module, paths: list[Path]) -> dict[str, np.ndarray]:
    """Probabilities [N, C] of every way."""
    found: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), progress_bar("Images", len(paths)) as advance:
        for path in paths:
            shown = ways(decode(path, path.name))
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in shown.values()])).permute(0, 3, 1, 2)
            for name, probs in zip(shown, model((pixels.float() - 127) / 128).softmax(-1).numpy(), strict=True):
                found.setdefault(name, []).append(probs)
            advance(1)
    return {name: np.stack(rows) for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000)
    options = parser.parse_args()
    torch.manual_seed(0)
    everything = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    classes = spread([*range(len(everything))], options.most)
    found = answers(network("tf_efficientnet_lite0", options.weights).eval(), [everything[i] for i in classes])
    images = np.arange(len(classes))
    for one, other in ROWS:
        first, second = found[one].argmax(-1), found[other].argmax(-1)
        moved = np.abs(found[one] - found[other])[images, first]
        right = [100 * (answer == classes).mean() for answer in (first, second)]
        print(
            f"{other} against {one}: {100 * (first != second).mean():.1f} % of {len(classes)} labels, probability "
            f"{moved.mean():.3f} on average, {moved.max():.2f} at most; accuracy {right[0]:.1f} and {right[1]:.1f} %"
        )


if __name__ == "__main__":
    main()

"""Write the demo's images from Debian's package `dataset-fashion-mnist` into `src/dhox/demo/fashion_mnist.npz`.

    sudo apt-get install dataset-fashion-mnist
    python scripts/make_demo_data.py

600 training and 100 validation images per class come from Fashion-MNIST's training file, 300 test images per
class from its test file. No image stands twice in the subset: exact copies are dropped before drawing.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "src/dhox/demo/fashion_mnist.npz"
PER_CLASS = {"train": 600, "val": 100, "test": 300}
SEED = 20261123

# Fashion-MNIST's label order, in the everyday words that a CLIP text encoder knows.
CLASSES = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"]


def read_idx(name: str) -> np.ndarray:
    """Read one gzipped IDX file (uint8) into an array of the shape that its header states."""
    with gzip.open(SOURCE / name) as file:
        content = file.read()
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_fashion_mnist(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels [N] of `train` or `t10k`; labels index `sorted(CLASSES)`."""
    order = np.argsort(np.argsort(CLASSES))
    return read_idx(f"{part}-images-idx3-ubyte.gz"), order[read_idx(f"{part}-labels-idx1-ubyte.gz")].astype(np.uint8)


def first_copies(images: np.ndarray) -> np.ndarray:
    """Indices of the images that are not an exact copy of an earlier one."""
    return np.sort(np.unique(images.reshape(len(images), -1), axis=0, return_index=True)[1])


def draw(labels: np.ndarray, candidates: np.ndarray, per_class: int, generator: np.random.Generator) -> np.ndarray:
    """`per_class` random candidates of every class, sorted."""
    drawn = [generator.choice(candidates[labels[candidates] == c], per_class, replace=False) for c in range(10)]
    return np.sort(np.concatenate(drawn))


def main() -> None:
    generator = np.random.default_rng(SEED)
    images, labels = read_fashion_mnist("train")
    distinct = first_copies(images)
    train = draw(labels, distinct, PER_CLASS["train"], generator)
    val = draw(labels, np.setdiff1d(distinct, train), PER_CLASS["val"], generator)

    test_images, test_labels = read_fashion_mnist("t10k")
    seen = {image.tobytes() for image in images}
    fresh = np.array([i for i in first_copies(test_images) if test_images[i].tobytes() not in seen])
    test = draw(test_labels, fresh, PER_CLASS["test"], generator)

    np.savez_compressed(
        TARGET,
        classes=np.array(sorted(CLASSES)),
        train_images=images[train], train_labels=labels[train],
        val_images=images[val], val_labels=labels[val],
        test_images=test_images[test], test_labels=test_labels[test],
    )  # fmt: skip
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

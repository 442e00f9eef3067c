"""An unlabelled pile of real images, and suggestions for it whose first guess is mostly right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import dhox.demo
from dhox.artefacts.suggestions import Guess, Suggestion, write_suggestions

CLASSES = ["bag", "dress", "sandal", "trousers"]


def write_pile(root: Path, count: int) -> list[str]:
    """`count` images in ROOT/unlabelled and ROOT/suggestions.csv; their true labels. Every fifth first guess is wrong."""
    folder = root / "unlabelled"
    folder.mkdir(parents=True)
    with np.load(Path(dhox.demo.__file__).parent / "fashion_mnist.npz") as archive:
        names, labels = archive["classes"].tolist(), archive["train_labels"]
        rows = np.flatnonzero(np.isin(labels, [names.index(name) for name in CLASSES]))[:count]
        pixels, truth = archive["train_images"][rows], [names[labels[row]] for row in rows]
    suggestions = []
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        suggestions.append(suggestion(number, truth[number]))
    write_suggestions(root / "suggestions.csv", suggestions)
    return truth


def suggestion(number: int, label: str) -> Suggestion:
    others = [name for name in CLASSES if name != label]
    order = [others[0], label, others[1]] if number % 5 == 4 else [label, *others[:2]]
    name = f"unlabelled/{number:03d}.png"
    guesses = tuple(Guess(name, share) for name, share in zip(order, (0.7, 0.2, 0.05), strict=True))
    return Suggestion(name, name, None, guesses)

"""What packing to a smaller side costs: accuracy of a trained network on views, against bytes per image.

    python benchmarks/packed_size.py DATA --student tf_efficientnet_lite0 --weights FILE

DATA: an image folder with classes in the network's own order, or a flat folder with one image per class. The same views
(crops, flips) are made from the original files with Pillow, as the teacher sees them, and from packed images of several
sides, as the student does. `--weights`: a state dict of the timm model, or one whose tensors come in the same order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from dhox.data.dataset import read_image
from dhox.data.items import Item
from dhox.distill.images.packed import to_packed_boxes
from dhox.distill.images.resample import model_views
from dhox.distill.images.views import render, view_boxes, view_keys
from dhox.evidence.statistics import paired_difference_lower_bound, wilson_interval

VIEWS = 2


def network(name: str, weights: Path | None) -> torch.nn.Module:
    """A timm classifier in eval mode."""
    model = timm.create_model(name, pretrained=weights is None)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        own = model.state_dict()
        if state.keys() != own.keys():  # the same architecture under other names
            theirs = [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]
            names = [key for key in own if not key.endswith("num_batches_tracked")]
            assert [t.shape for t in theirs] == [own[key].shape for key in names]
            state = own | dict(zip(names, theirs, strict=True))
        model.load_state_dict(state)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--student", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 192, 224, 256, 320, 366, 448])
    options = parser.parse_args()

    paths = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    folders = sorted({path.parent.name for path in paths})
    labels = np.array([folders.index(p.parent.name) if len(folders) > 1 else i for i, p in enumerate(paths)])
    labels = np.repeat(labels, VIEWS)
    model = network(options.student, options.weights)
    config = timm.data.resolve_data_config({}, model=model)
    size, kernel, mean, std = config["input_size"][-1], config["interpolation"], config["mean"], config["std"]
    centre, spread = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    answers: dict[str, list[np.ndarray]] = {name: [] for name in ["originals", *map(str, options.sides)]}
    errors: dict[str, list[float]] = {str(side): [] for side in options.sides}
    with torch.inference_mode():
        for path in paths:
            image = read_image(Item(str(path), path.name))
            sizes = np.tile(image.size, (VIEWS, 1))
            boxes = view_boxes(np.repeat(view_keys([path.name], 0), VIEWS), np.arange(VIEWS), sizes)
            pixels = np.stack([render(image, box, size, kernel) for box in boxes])
            original = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - centre) / spread
            answers["originals"].append(model(original).argmax(-1).numpy())
            for side in options.sides:
                packed = np.array(image.resize((side, side), Image.Resampling.BICUBIC))
                rows = torch.from_numpy(packed)[None].expand(VIEWS, -1, -1, -1).contiguous()
                in_packed = torch.from_numpy(to_packed_boxes(boxes, sizes, side))
                views = model_views(rows, in_packed, size, kernel, centre, spread)
                answers[str(side)].append(model(views).argmax(-1).numpy())
                errors[str(side)].append(float(((views - original) * spread).abs().mean()) * 255)
    whole = np.concatenate(answers["originals"])
    print(f"{options.student} at {size} px, {len(paths)} images, {VIEWS} views each; accuracy with 95 % interval")
    for name, parts in answers.items():
        right, same = np.concatenate(parts) == labels, np.concatenate(parts) == whole
        low, high = wilson_interval(int(right.sum()), len(right))
        text = f"{name:>9}: {100 * right.mean():.1f} % ({100 * low:.1f}-{100 * high:.1f})"
        if name != "originals":
            bound = 100 * paired_difference_lower_bound(right, whole == labels)
            text += (
                f", lower bound {bound:+.1f} points against the originals; same label {100 * same.mean():.1f} %,"
                f" mean pixel error {np.mean(errors[name]):.2f} of 255; {int(name) ** 2 * 3 / 1e3:.0f} kB per image"
            )
        print(text)


if __name__ == "__main__":
    main()

"""Train the demo's teacher, a tiny OpenCLIP model, into `src/dhox/demo/teacher/` (about 4 minutes on 2 cores).

    sudo apt-get install dataset-fashion-mnist
    python scripts/train_demo_teacher.py

Contrastive training on image-caption pairs, as CLIP's. The images are those of Fashion-MNIST's training file that
are in none of the demo's splits. The captions are written like those of the web: many ways to say a thing, and
WRONG_SHARE of them about something else. So the teacher is useful and imperfect, as a web teacher is.
"""

from __future__ import annotations

import json
import time

import numpy as np
import open_clip
import torch
from make_demo_data import CLASSES, TARGET, read_fashion_mnist
from open_clip.loss import ClipLoss
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES
from safetensors.torch import save_file
from torchvision.transforms import v2

TEACHER = TARGET.parent / "teacher"
SEED = 0
EPOCHS = 4
BATCH = 128
WRONG_SHARE = 0.15
SIMILAR_SHARE = 0.3  # of the wrong captions: about a thing that looks alike, not about a random one
MIXED_UP = {"sandal": "sneaker", "sneaker": "sandal"}  # a habit of the writers: shoes are shoes
MIXED_UP_SHARE = 0.36

CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 28, "patch_size": 4, "width": 96, "layers": 3, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.286, 0.286, 0.286],
        "std": [0.353, 0.353, 0.353],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}

NOUNS = {
    "ankle_boot": ["ankle boot", "boot", "leather boot"],
    "bag": ["bag", "handbag", "purse"],
    "coat": ["coat", "jacket", "overcoat"],
    "dress": ["dress", "gown", "summer dress"],
    "pullover": ["pullover", "sweater", "jumper"],
    "sandal": ["sandal", "flip flop", "open shoe"],
    "shirt": ["shirt", "blouse", "button-up shirt"],
    "sneaker": ["sneaker", "trainer", "running shoe"],
    "t-shirt": ["t-shirt", "tee", "short sleeved top"],
    "trousers": ["trousers", "pants", "slacks"],
}
SIMILAR = {
    "ankle_boot": ["sneaker", "sandal"],
    "bag": ["dress", "ankle_boot"],
    "coat": ["pullover", "shirt"],
    "dress": ["coat", "t-shirt"],
    "pullover": ["coat", "shirt"],
    "sandal": ["sneaker", "ankle_boot"],
    "shirt": ["t-shirt", "pullover", "coat"],
    "sneaker": ["sandal", "ankle_boot"],
    "t-shirt": ["shirt", "pullover"],
    "trousers": ["dress", "coat"],
}
CAPTIONS = [
    "a photo of a {}", "{} for sale", "my new {}", "a small picture of the {}", "buy this {} online",
    "the {} on a plain background", "itap of a {}", "black and white {}",
]  # fmt: skip


def write_captions(labels: np.ndarray, names: list[str], generator: np.random.Generator) -> list[str]:
    """One caption per label; WRONG_SHARE of them name another class, besides what MIXED_UP makes of some."""
    captions = []
    for label in labels:
        name = names[label]
        if name in MIXED_UP and generator.random() < MIXED_UP_SHARE:
            name = MIXED_UP[name]
        if generator.random() < WRONG_SHARE:
            alike = generator.random() < SIMILAR_SHARE
            name = generator.choice(SIMILAR[name] if alike else [other for other in names if other != name])
        captions.append(generator.choice(CAPTIONS).format(generator.choice(NOUNS[name])))
    return captions


def zero_shot_accuracy(model: torch.nn.Module, tokenizer, names: list[str], images: np.ndarray, labels: np.ndarray):
    """Top-1 with open_clip's seven simple templates."""
    mean, std = CONFIG["preprocess_cfg"]["mean"][0], CONFIG["preprocess_cfg"]["std"][0]
    with torch.no_grad():
        text = torch.stack([
            torch.nn.functional.normalize(
                model.encode_text(
                    tokenizer([t(name.replace("_", " ")) for t in SIMPLE_IMAGENET_TEMPLATES]), normalize=True
                ).mean(0),
                dim=0,
            )
            for name in names
        ])  # fmt: skip
        pixels = (torch.from_numpy(images)[:, None].float() / 255 - mean) / std
        z = torch.cat([model.encode_image(part.expand(-1, 3, -1, -1), normalize=True) for part in pixels.split(500)])
    return ((z @ text.T).argmax(1).numpy() == labels).mean()


def main() -> None:
    torch.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    names = sorted(CLASSES)
    demo = np.load(TARGET)
    images, labels = read_fashion_mnist("train")
    used = {image.tobytes() for split in ("train", "val", "test") for image in demo[f"{split}_images"]}
    free = np.array([i for i, image in enumerate(images) if image.tobytes() not in used])
    images, labels = images[free], labels[free]
    print(f"{len(images)} images that are in none of the demo's splits")

    TEACHER.mkdir(exist_ok=True)
    (TEACHER / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    model = open_clip.create_model(f"local-dir:{TEACHER}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TEACHER}")
    tokens = tokenizer(write_captions(labels, names, generator))
    augment = v2.Compose([v2.RandomResizedCrop(28, scale=(0.6, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    mean, std = CONFIG["preprocess_cfg"]["mean"][0], CONFIG["preprocess_cfg"]["std"][0]
    pixels = torch.from_numpy(images)[:, None]

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    loss_of = ClipLoss()
    start = time.perf_counter()
    step = 0
    for epoch in range(EPOCHS):
        for batch in torch.from_numpy(generator.permutation(len(images))).split(BATCH)[: len(images) // BATCH]:
            view = torch.cat([augment(part) for part in pixels[batch].split(16)]).float()
            out = model(((view / 255 - mean) / std).expand(-1, 3, -1, -1), tokens[batch])
            loss = loss_of(*out[:3])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 100 == 0:
                print(f"epoch {epoch} step {step}/{steps} loss {loss.item():.3f} {time.perf_counter() - start:.0f} s")

    model.eval()
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, TEACHER / "open_clip_model.safetensors")
    model = open_clip.create_model(f"local-dir:{TEACHER}").eval()
    size = (TEACHER / "open_clip_model.safetensors").stat().st_size / 1e6
    print(f"{size:.1f} MB, logit scale {model.logit_scale.exp().item():.1f}")
    for split in ("val", "test"):
        accuracy = zero_shot_accuracy(model, tokenizer, names, demo[f"{split}_images"], demo[f"{split}_labels"])
        print(f"zero-shot {split} accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()

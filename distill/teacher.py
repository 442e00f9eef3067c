"""The teacher: any OpenCLIP model, its class text embeddings, and its image embeddings of views."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dhox.console import progress_bar
from dhox.dataset import Item, read_image
from dhox.distill.pixels import WholeImages, to_model
from dhox.distill.views import render, view_of
from dhox.errors import DhoxError

DEFAULT_TEMPLATES = tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)


@dataclass(frozen=True)
class Teacher:
    """A frozen OpenCLIP model. `scale` = exp(logit_scale); `transform`: RGB image to float [3, size, size]."""

    name: str
    model: Any
    tokenizer: Callable[[list[str]], torch.Tensor]
    transform: Callable[[Image.Image], torch.Tensor]
    scale: float
    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def encode_classes(self, prompt_names: list[str], templates: list[str]) -> torch.Tensor:
        """Text embeddings W_t [C, D]: each template's embedding normalised, averaged, normalised again."""
        weights = open_clip.build_zero_shot_classifier(
            self.model, self.tokenizer, prompt_names, templates, device=self.device
        )
        return weights.T.float().cpu()

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised embeddings z_t [B, D], float32, of float images [B, 3, size, size] on any device."""
        half = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=half):
            embeddings = self.model.encode_image(images.to(self.device), normalize=True)
        return torch.nn.functional.normalize(embeddings.float(), dim=-1)


def load_teacher(name: str, device: torch.device, scale: float | None = None) -> Teacher:
    """Load `ARCHITECTURE/TAG`, `ARCHITECTURE/FILE`, `hf-hub:ORG/MODEL` or `local-dir:PATH` with open_clip's loader.

    `scale` overrides the checkpoint's exp(logit_scale). Raises DhoxError for unknown names (with the closest ones) and
    for weights that cannot be loaded.
    """
    architecture, pretrained = split_name(name)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            architecture, pretrained, device=device, require_pretrained=True, weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as err:
        raise DhoxError(
            f"The teacher {name!r} could not be loaded ({err}). Without a network, pass local files: "
            "local-dir:PATH (a folder with open_clip_config.json and weights) or ARCHITECTURE/FILE.safetensors."
        ) from err
    model.requires_grad_(False).eval()
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    return Teacher(
        name, model, tokenizer, transform,
        scale=float(model.logit_scale.exp()) if scale is None else scale,
        size=size, interpolation=config["interpolation"].replace("random", "bicubic"),
        mean=tuple(config["mean"]), std=tuple(config["std"]), device=device,
    )  # fmt: skip


def split_name(name: str, role: str = "teacher", weights_needed: bool = True) -> tuple[str, str | None]:
    """`ARCHITECTURE/TAG` to (architecture, tag); the schemas hf-hub: and local-dir: stand alone.

    Raises DhoxError for an architecture or tag that open_clip does not know, naming the closest, and for a tag that was
    trained with QuickGELU where the architecture has GELU (open_clip only warns, and the answers would be wrong).
    `role`: who is named in messages; without `weights_needed` the name may be an architecture alone.
    """
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    architecture, _, pretrained = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise DhoxError(
            f"The {role} {architecture!r} is not an OpenCLIP architecture. {closest(architecture, known)} "
            "Use ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH."
        )
    if not weights_needed:
        return architecture, None
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise DhoxError(
            f"{architecture} has no weights {pretrained!r}. {closest(pretrained, tags)} "
            f"Use {architecture}/TAG with a known tag, or {architecture}/FILE.safetensors."
        )
    sibling = f"{architecture}-quickgelu"
    if (open_clip.get_pretrained_cfg(architecture, pretrained) or {}).get("quick_gelu") and sibling in known:
        raise DhoxError(f"{architecture}/{pretrained} was trained with QuickGELU. Use {sibling}/{pretrained}.")
    return architecture, pretrained


def closest(name: str, known: list[str]) -> str:
    """A sentence with the known names nearest to a wrong one."""
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, 3, 0.4)]
    return f"Closest: {', '.join(near)}." if near else f"Known: {', '.join(sorted(known)[:8])}."


class TeacherViews(Dataset[torch.Tensor]):
    """Per image its first `views` views, uint8 [views, size, size, 3]."""

    def __init__(self, items: list[Item], views: int, seed: int, size: int, interpolation: str) -> None:
        self.items, self.views, self.seed = items, views, seed
        self.size, self.interpolation = size, interpolation

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        item = self.items[index]
        image = read_image(item)
        crops = [
            render(image, view_of(self.seed, item.name, view, *image.size), self.size, self.interpolation)
            for view in range(self.views)
        ]
        return torch.from_numpy(np.stack(crops))


def embed_views(teacher: Teacher, items: list[Item], views: int, seed: int, workers: int) -> torch.Tensor:
    """The teacher's embeddings of `views` views per image, float16 [N, views, D], on the CPU."""
    dataset = TeacherViews(items, views, seed, teacher.size, teacher.interpolation)
    loader = DataLoader(dataset, batch_size=max(1, 256 // views), num_workers=workers)
    embeddings = []
    with progress_bar("Teacher views", len(items) * views) as advance:
        for crops in loader:
            pixels = crops.flatten(0, 1).to(teacher.device)
            z = teacher.encode_images(to_model(pixels, teacher.mean, teacher.std))
            embeddings.append(z.half().cpu().unflatten(0, (len(crops), views)))
            advance(len(crops) * views)
    return torch.cat(embeddings)


def zero_shot_predictions(
    teacher: Teacher, text_embeddings: torch.Tensor, items: list[Item], workers: int
) -> np.ndarray:
    """The class that the teacher alone gives each image, int [N]; `text_embeddings` [C, D]."""
    loader = DataLoader(WholeImages(items, teacher.transform), batch_size=64, num_workers=workers)
    predictions = []
    with progress_bar("Teacher zero-shot", len(items)) as advance:
        for images in loader:
            predictions.append((teacher.encode_images(images).cpu() @ text_embeddings.T).argmax(-1))
            advance(len(images))
    return torch.cat(predictions).numpy() if predictions else np.zeros(0, int)

"""The teacher: any OpenCLIP model, its class text embeddings, and its image embeddings of views."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES
from PIL import Image

from dhox.distill.teachers.model_config import CONFIG_FILE, check_config, local_config
from dhox.distill.weights_file import reason_of
from dhox.errors import DhoxError

DEFAULT_TEMPLATES = tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)


@dataclass(frozen=True)
class Teacher:
    """A frozen OpenCLIP model. `scale` = exp(logit_scale); `transform`: RGB image to float [3, size, size];
    `width`: D of its embeddings.

    `logit_bias`: what a model trained with sigmoids (SigLIP) adds to every logit, else None. A constant over the
    classes changes no softmax, so dhox records it and adds it nowhere.
    """

    name: str
    model: Any
    tokenizer: Callable[[list[str]], torch.Tensor]
    transform: Callable[[Image.Image], torch.Tensor]
    scale: float
    size: int
    interpolation: str
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    logit_bias: float | None = None

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
            embeddings = self.model.encode_image(images.to(self.device, non_blocking=True), normalize=True)
        return torch.nn.functional.normalize(embeddings.float(), dim=-1)


def load_teacher(name: str, device: torch.device, scale: float | None = None) -> Teacher:
    """Load `ARCHITECTURE/TAG`, `ARCHITECTURE/FILE`, `hf-hub:ORG/MODEL` or `local-dir:PATH` with open_clip's loader.

    `scale` overrides the checkpoint's exp(logit_scale). Raises DhoxError for unknown names (with the closest ones), and
    for a configuration and weights that make no model that answers with finite numbers.
    """
    architecture, pretrained = split_name(name)
    check_config(name)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            architecture, pretrained, device=device, require_pretrained=True, weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(architecture)
        model.requires_grad_(False).eval()
        config = open_clip.get_model_preprocess_cfg(model)
        size = config["size"] if isinstance(config["size"], int) else config["size"][0]
        bias = getattr(model, "logit_bias", None)
        own_scale = float(model.logit_scale.exp())
        if not isfinite(own_scale):
            raise ValueError(f"exp(logit_scale) is {own_scale}: the weights are damaged")
        return Teacher(
            name, model, tokenizer, transform,
            scale=own_scale if scale is None else scale,
            size=size, width=_width(model, tokenizer, size, device),
            interpolation=config["interpolation"].replace("random", "bicubic"),
            mean=tuple(config["mean"]), std=tuple(config["std"]), device=device,
            logit_bias=None if bias is None else float(bias),
        )  # fmt: skip
    except Exception as err:
        advice = (
            "Without a network, pass local files: local-dir:PATH (a folder with open_clip_config.json and weights) or "
            "ARCHITECTURE/FILE.safetensors."
        )
        if isinstance(err, ImportError):
            advice = "Install what it needs; Hugging Face tokenizers: pip install transformers sentencepiece"
        elif local_config(name):
            advice = f"Its {CONFIG_FILE} and its weights must be whole and of one model: get both again."
        raise DhoxError(f"The teacher {name!r} could not be loaded ({reason_of(err)}).", advice) from err


def _width(model: Any, tokenizer: Any, size: int, device: torch.device) -> int:
    """D of a model's embeddings. Raises ValueError where those of an image and of a text are no such vectors."""
    with torch.inference_mode():
        text = model.encode_text(tokenizer(["a"]).to(device))
        image = model.encode_image(torch.zeros(1, 3, size, size, device=device))
    if text.shape != image.shape:
        raise ValueError(f"texts become {list(text.shape)}, images {list(image.shape)}")
    if not (text.isfinite().all() and image.isfinite().all()):
        raise ValueError("its embeddings are not finite: the weights are damaged")
    return int(text.shape[-1])


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
            f"The {role} {architecture!r} is not an OpenCLIP architecture.",
            f"{closest(architecture, known)} Use ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.",
        )
    if not weights_needed:
        return architecture, None
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise DhoxError(
            f"{architecture} has no weights {pretrained!r}.",
            f"{closest(pretrained, tags)} Use {architecture}/TAG with a known tag, or {architecture}/FILE.safetensors.",
        )
    sibling = f"{architecture}-quickgelu"
    if (open_clip.get_pretrained_cfg(architecture, pretrained) or {}).get("quick_gelu") and sibling in known:
        raise DhoxError(f"{architecture}/{pretrained} was trained with QuickGELU.", f"Use {sibling}/{pretrained}.")
    return architecture, pretrained


def closest(name: str, known: list[str]) -> str:
    """A sentence with the known names nearest to a wrong one."""
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, 3, 0.4)]
    return f"Closest: {', '.join(near)}." if near else f"Known: {', '.join(sorted(known)[:8])}."

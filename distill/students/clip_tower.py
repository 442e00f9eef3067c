"""Image towers of OpenCLIP models as student backbones: features z = encode_image without the normalisation."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.model import _build_vision_tower, resize_pos_embed
from torch import nn

from dhox.artefacts.common import Preprocessing
from dhox.distill.teachers.model_config import check_config
from dhox.distill.teachers.teacher import split_name
from dhox.distill.weights_file import check_finite, reason_of
from dhox.errors import DhoxError, UsageError

PREFIX = "open_clip:"
SCHEMES = ("hf-hub:", "local-dir:")
TEXT_BATCH = 256


class LoadedTower(NamedTuple):
    """A backbone [B, 3, H, W] -> [B, d], what rebuilds it (see `build_tower`), and the model with its text tower."""

    backbone: nn.Module
    config: dict[str, Any]
    preprocessing: Preprocessing
    clip: Any
    tokenizer_name: str


def load_tower(name: str, weights: str, image_size: int | None) -> LoadedTower:
    """Load the image tower of `open_clip:ARCHITECTURE/TAG`, `open_clip:hf-hub:ORG/MODEL` or `open_clip:local-dir:PATH`.

    `weights`: `pretrained` (the tag's or the folder's), `none` (random; then ARCHITECTURE needs no tag), or a file with
    a whole OpenCLIP model. `image_size`: pixels, where not the tower's own: open_clip then interpolates position
    embeddings. Raises DhoxError for unknown names, missing weights and sizes that the tower cannot take.
    """
    architecture, pretrained = _split_tower_name(name, weights)
    check_config(architecture)
    try:
        model = open_clip.create_model(
            architecture, pretrained, load_weights=weights != "none", require_pretrained=weights != "none",
            pretrained_text=False, weights_only=True,
        )  # fmt: skip
        config = open_clip.get_model_config(architecture)
    except Exception as err:
        raise DhoxError(
            f"The student {name!r} could not be loaded ({reason_of(err)}).",
            "Without a network, pass "
            "open_clip:local-dir:PATH, or --student-weights FILE with the whole OpenCLIP model, or none.",
        ) from err
    check_finite(model.visual.state_dict(), f"The student {name!r}")
    data = open_clip.get_model_preprocess_cfg(model)
    own_size = data["size"] if isinstance(data["size"], int) else data["size"][0]
    size = image_size or own_size
    interpolation = data["interpolation"].replace("random", "bicubic")
    tower = {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config}
    backbone = _features_only(model.visual) if size == own_size else resized(name, model.visual, tower, size)
    preprocessing = Preprocessing(size, size, interpolation, tuple(data["mean"]), tuple(data["std"]))
    return LoadedTower(backbone, tower, preprocessing, model, architecture)


def resized(name: str, tower: nn.Module, config: dict[str, Any], image_size: int) -> nn.Module:
    """The same weights in a tower for another image size, position embeddings interpolated by open_clip or timm."""
    try:
        other = build_tower(config, image_size)
        if "timm_model_name" in config["vision_cfg"]:
            tower.set_input_size(image_size)  # type: ignore[operator]
        state = {f"visual.{key}": tensor for key, tensor in tower.state_dict().items()}
        resize_pos_embed(state, SimpleNamespace(visual=other))
        other.load_state_dict({key.removeprefix("visual."): tensor for key, tensor in state.items()})
    except Exception as err:  # shapes that do not fit, or timm's assertions on windows and patches
        raise DhoxError(f"{name} takes images of its own size only.", f"Leave --image-size {image_size} out.") from err
    return other


def build_tower(config: dict[str, Any], image_size: int) -> nn.Module:
    """The tower that `config` describes (embed_dim, vision_cfg and quick_gelu of open_clip), with random weights.

    It needs neither network nor the folder that the student once came from.
    """
    vision = deepcopy(config["vision_cfg"])
    if "timm_model_name" not in vision:
        return _features_only(
            _build_vision_tower(
                config["embed_dim"], vision | {"image_size": image_size}, config.get("quick_gelu", False)
            )
        )
    tower = _build_vision_tower(config["embed_dim"], vision | {"timm_model_pretrained": False})
    if image_size != vision.get("image_size", 224):
        tower.set_input_size(image_size)
    return _features_only(tower)


def _features_only(tower: Any) -> nn.Module:
    """Towers of captioning models give (features, tokens): ask for the features alone."""
    if getattr(tower, "output_tokens", False):
        tower.output_tokens = False
    backbone: nn.Module = tower
    return backbone


def _split_tower_name(name: str, weights: str) -> tuple[str, str | None]:
    """(architecture, tag or file) as open_clip takes them. Raises DhoxError for unknown ones, naming the closest."""
    plain = name.removeprefix(PREFIX)
    if plain.startswith(SCHEMES):
        if weights not in {"pretrained", "none"}:
            raise UsageError(
                f"{name} brings its own weights.", "Leave --student-weights out, or write open_clip:ARCHITECTURE."
            )
        return plain, None
    architecture = plain.partition("/")[0]
    if weights == "pretrained":
        return split_name(plain, "student")
    split_name(architecture, "student", weights_needed=False)
    return architecture, None if weights == "none" else str(Path(weights).absolute())


def text_embeddings(tower: LoadedTower, prompts: list[str], templates: list[str], device: torch.device) -> torch.Tensor:
    """Class text embeddings [C, d] of the student's own text tower, the rows with norm 1, computed on `device`.

    Each template's embedding is normalised, averaged, normalised again, as for the teacher.
    """
    tokenizer = open_clip.get_tokenizer(tower.tokenizer_name)
    model = tower.clip.to(device).eval()
    weights = open_clip.build_zero_shot_classifier(model, tokenizer, prompts, templates, device=device)
    model.cpu()
    return weights.T.float().cpu()


def mean_text_embeddings(
    tower: LoadedTower, prompts: list[str], templates: list[str], device: torch.device
) -> torch.Tensor:
    """The same as the authors' code has them: the mean over the templates, nothing normalised.

    A cosine-code head then starts |w_c| times sharper than CLIP, w_c being a row.
    """
    texts = open_clip.get_tokenizer(tower.tokenizer_name)([t.format(name) for name in prompts for t in templates])
    model = tower.clip.to(device).eval()
    with torch.no_grad():
        parts = [model.encode_text(part.to(device)).float().cpu() for part in texts.split(TEXT_BATCH)]
    model.cpu()
    return torch.cat(parts).unflatten(0, (len(prompts), len(templates))).mean(1)

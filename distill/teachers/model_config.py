"""open_clip_config.json of a folder with an OpenCLIP model: checked before open_clip builds anything from it."""

from __future__ import annotations

import json
import re
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.common import Side
from dhox.artefacts.record import AtLeastOne, Name, Positive, Record, field_error, read_text
from dhox.errors import DhoxError, require

CONFIG_FILE = "open_clip_config.json"
LOCAL = "local-dir:"
# A list: msgspec 0.22 dies in the garbage collector of `Annotated[int, Meta] | tuple[...]`.
Sides = Side | Annotated[list[Side], Meta(min_length=2, max_length=2)]
Channel = Annotated[float, Meta(ge=-1e6, le=1e6)]


class Vision(Record):
    """The image tower, as far as dhox and the shapes of its own transformers go; the rest is open_clip's."""

    image_size: Sides = 224
    layers: AtLeastOne | list[AtLeastOne] = 12
    width: AtLeastOne = 768
    head_width: AtLeastOne = 64
    patch_size: AtLeastOne | None = 16
    timm_model_name: Name | None = None


class Text(Record):
    """The text tower."""

    context_length: AtLeastOne = 77
    vocab_size: AtLeastOne = 49408
    width: AtLeastOne = 512
    heads: AtLeastOne = 8
    layers: AtLeastOne = 12
    hf_model_name: Name | None = None
    hf_tokenizer_name: Name | None = None


class Model(Record):
    """What the weights are put into."""

    embed_dim: AtLeastOne
    vision_cfg: Vision
    text_cfg: Text
    quick_gelu: bool = False
    custom_text: bool = False


class Preprocess(Record):
    """From an image to the tower's input."""

    size: Sides | None = None
    mode: Literal["RGB"] | None = None
    mean: tuple[Channel, Channel, Channel] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    interpolation: Literal["bilinear", "bicubic", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if not all(map(isfinite, getattr(self, name) or ())):
                raise ValueError(f"{name} is not of finite numbers")


class Config(Record):
    """The whole file."""

    model_cfg: Model
    preprocess_cfg: Preprocess | None = None


def local_config(name: str) -> Path | None:
    """The configuration of `local-dir:PATH`; None for other names, and where there is none."""
    path = Path(name.removeprefix(LOCAL)) / CONFIG_FILE
    return path if name.startswith(LOCAL) and path.exists() else None


def check_config(name: str) -> None:
    """Raise DhoxError that names the file, and the field, where `local-dir:PATH` holds a configuration of no model."""
    path = local_config(name)
    if path is None:
        return
    content, advice = read_text(path), "Get the file again from where the model came from."
    try:
        msgspec.convert(json.loads(content), Config)
    except msgspec.ValidationError as err:
        raise DhoxError(f"{path} describes no OpenCLIP model: {field_error(err, content)}.", advice) from err
    except (ValueError, RecursionError) as err:
        raise DhoxError(f"{path} is not valid JSON ({err}).", advice) from err


def license_of(name: str) -> str | None:
    """The licence that the model card beside a teacher's weights names; None where there is none."""
    try:
        if name.startswith(LOCAL):
            text = (Path(name.removeprefix(LOCAL)) / "README.md").read_text(encoding="utf-8")
        else:
            hub = require("huggingface_hub", "distill")
            text = Path(hub.hf_hub_download(hub_address(name), "README.md")).read_text(encoding="utf-8")
    except Exception:  # a card is no reason to stop: the hub's client raises many types
        return None
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license(?:_name)?:\s*(\S.*)$", head[1], re.MULTILINE) if head else None
    return found[1].strip().strip("'\"") if found else None


def hub_address(name: str) -> str:
    """ORG/MODEL on the hub, of `hf-hub:ORG/MODEL` or of ARCHITECTURE/TAG. Raises LookupError where there is none."""
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    open_clip = require("open_clip", "distill")
    architecture, _, tag = name.rpartition("/")
    return str((open_clip.get_pretrained_cfg(architecture, tag) or {})["hf_hub"]).rstrip("/")

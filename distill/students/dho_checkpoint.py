"""Checkpoints of the DHO authors' code (github.com/erjui/DHO), read into a student without running anything in them."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torchvision
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from dhox.artefacts.common import KdHead, Preprocessing, StudentSpec
from dhox.data.dataset import shorten
from dhox.distill.students.clip_tower import PREFIX, build_tower
from dhox.distill.students.student import Student, create_backbone, with_heads
from dhox.distill.teachers.teacher import closest
from dhox.distill.weights_file import check_finite, reason_of
from dhox.errors import DhoxError

CNNS = {  # the authors' name -> (timm's, torchvision's)
    "resnet18": ("resnet18", "resnet18"),
    "resnet50": ("resnet50", "resnet50"),
    "mobilenetv2": ("mobilenetv2_100", "mobilenet_v2"),
}
CNN_SIZE = 224
HEADS = ("ce_head.weight", "ce_head.bias", "kd_head.weight", "kd_head.bias")
STATES = ("model_state_dict", "student_model", "state_dict")
STORED = ("alpha", "beta", "acc", "epoch")


def read_checkpoint(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """(tensors by name, numbers stored beside them) of any form in which the authors' code writes checkpoints.

    A bare state dict, or one under model_state_dict, student_model or state_dict; every name with or without `module.`.
    Loaded with weights_only, so nothing in the file can run. Raises DhoxError where it is no such file, and for values
    that are not finite.
    """
    scalar = np.float64(0).__reduce__()[0]  # train_others.py stores alpha and beta as numpy numbers
    allowed = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*allowed, np.dtype, type(np.dtype(np.float64))]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:
        raise DhoxError(
            f"{file} could not be loaded as a checkpoint ({reason_of(err)}).",
            "Give a .pt file of the authors' code (huggingface.co/erjui/dho).",
        ) from err
    stored = {}
    if isinstance(content, dict):
        stored = {key: float(content[key]) for key in STORED if isinstance(content.get(key), (int, float))}
        content = next((content[key] for key in STATES if key in content), content)
    named = content.items() if isinstance(content, dict) else ()
    state = {str(name).removeprefix("module."): part for name, part in named if isinstance(part, torch.Tensor)}
    missing = [name for name in HEADS if name not in state]
    if missing or not any(name.startswith("backbone.") for name in state):
        raise DhoxError(
            f"{file} is no DHO student: it lacks {shorten(missing or ['backbone.*'])} (found: {shorten([*state], 4)}).",
            "Give a checkpoint of train_imgnet_semi.py, train_imgnet.py or train_others.py.",
        )
    check_finite(state, str(file))
    return state, stored


def rebuild(
    state: dict[str, torch.Tensor], arch: str, classes: int, file: Path
) -> tuple[Student, StudentSpec, Preprocessing]:
    """The student of a checkpoint. Raises DhoxError for another architecture or number of classes, naming tensors."""
    rows = len(state["ce_head.bias"])
    if rows != classes:
        raise DhoxError(
            f"{file} has {rows} classes, --classes names {classes}.", "Give the class list of its training."
        )
    backbone_state = {
        name.removeprefix("backbone."): part for name, part in state.items() if name.startswith("backbone.")
    }
    tower: dict[str, Any] | None = None
    kind: KdHead = "linear" if arch in CNNS else "cosine-code"
    if arch in CNNS:
        name, size = CNNS[arch][0], CNN_SIZE
        backbone, _ = create_backbone(name, "none", None)
        backbone_state = renamed(backbone_state, arch, backbone, file)
        look = Preprocessing(size, size, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    else:
        name, tower = _openai_tower(arch)
        size = _clip_image_size(backbone_state, tower, arch, file)
        backbone = build_tower(tower, size)
        look = Preprocessing(size, size, "bicubic", OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    _check_fit(backbone.state_dict(), backbone_state, arch, file)
    student = with_heads(backbone, size, classes, two_heads=True, kd_kind=kind)
    heads = {key: state[key] for key in HEADS}
    _check_fit({key: student.state_dict()[key] for key in HEADS}, heads, arch, file)
    student.load_state_dict(heads | {f"backbone.{key}": part for key, part in backbone_state.items()})
    return student.float(), StudentSpec(name, size, classes, True, kind, tower), look


def _openai_tower(arch: str) -> tuple[str, dict[str, Any]]:
    """(student name, tower configuration) of OpenAI's architecture: OpenCLIP's with QuickGELU."""
    full = f"{arch.removesuffix('px').removesuffix('-336')}-quickgelu"
    if full not in open_clip.list_models():
        openai = [name.removesuffix("-quickgelu") for name in open_clip.list_models() if name.endswith("-quickgelu")]
        known = [*CNNS, *openai]
        raise DhoxError(f"--arch {arch} is unknown.", f"{closest(arch, known)} Use the student of the training.")
    config = open_clip.get_model_config(full)
    return f"{PREFIX}{full}", {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu")}


def _clip_image_size(state: dict[str, torch.Tensor], tower: dict[str, Any], arch: str, file: Path) -> int:
    """Pixels of the side for which the position embeddings were made: one row per patch, and one more."""
    is_resnet = isinstance(tower["vision_cfg"]["layers"], list)
    name = "attnpool.positional_embedding" if is_resnet else "positional_embedding"
    if name not in state:
        raise DhoxError(
            f"{file} lacks backbone.{name}, so it is no {arch}.", "Give --arch the student of the training."
        )
    return isqrt(len(state[name]) - 1) * (32 if is_resnet else tower["vision_cfg"]["patch_size"])


def renamed(state: dict[str, torch.Tensor], arch: str, backbone: nn.Module, file: Path) -> dict[str, torch.Tensor]:
    """The tensors of torchvision's backbone, an nn.Sequential with numbers for names, under timm's names.

    Both libraries define these networks in the same order, layer for layer.
    """
    theirs = nn.Sequential(*list(getattr(torchvision.models, CNNS[arch][1])().children())[:-1]).state_dict()
    _check_fit(theirs, state, arch, file)
    return {name: state[numbered] for name, numbered in zip(backbone.state_dict(), theirs, strict=True)}


def _check_fit(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor], arch: str, file: Path) -> None:
    """Raise DhoxError where tensors are missing, too many or of other shapes."""
    missing = [name for name in own if name not in given]
    extra = [name for name in given if name not in own]
    other = [
        f"{name} {list(given[name].shape)} instead of {list(part.shape)}"
        for name, part in own.items()
        if name in given and given[name].shape != part.shape
    ]
    words = {"missing": missing, "not in that architecture": extra, "of another shape": other}
    if missing or extra or other:
        found = "; ".join(f"{len(names)} {what}: {shorten(names, 2)}" for what, names in words.items() if names)
        raise DhoxError(f"{file} is no {arch} ({found}).", "Give --arch the student of the training.")

"""The student: a backbone and its heads, and the files it is kept in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from torch import nn

from dhox.artefacts.common import Preprocessing, StudentSpec
from dhox.artefacts.files import write_bytes
from dhox.artefacts.run_directory import WEIGHTS_FILE
from dhox.distill.students.clip_tower import PREFIX, build_tower
from dhox.distill.students.image_size import create_timm
from dhox.distill.students.kd_head import create_kd_head
from dhox.distill.students.student_weights import load_backbone_weights
from dhox.distill.teachers.teacher import closest
from dhox.errors import DhoxError
from dhox.system.regular_file import regular


class Student(nn.Module):
    """Backbone -> features z [B, d] -> CE head, a linear layer [C, d], and KD head, of one of KD_HEADS.

    The single-head methods (ce, kd, sho) have no KD head: both outputs are the one head's logits. Only the backbone
    takes part in mixed precision: heads compute in fp32, since a cosine head multiplies what rounding left by 100.
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int, two_heads: bool, kd_kind: str) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = backbone
        self.kd_kind = kd_kind
        self.ce_head = nn.Linear(features, classes)
        self.kd_head = create_kd_head(kd_kind, features, classes) if two_heads else None

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised float images [B, 3, H, W] to (CE logits, KD logits), each [B, C]."""
        return self.logits(self.backbone(images))

    def logits(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, d] of any precision to (CE logits, KD logits), fp32, each [B, C]."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            ce_logits = self.ce_head(z)
            return ce_logits, ce_logits if self.kd_head is None else self.kd_head(z)


def check_student_name(name: str) -> None:
    """Raise DhoxError, with the closest names, for a student that timm does not know."""
    if not name.startswith(PREFIX) and name.split(".")[0] not in timm.list_models():
        raise DhoxError(
            f"The student {name!r} is not a timm model.",
            f"{closest(name, timm.list_models())} "
            f"Any name of timm.list_models() will do, and {PREFIX}ARCHITECTURE/TAG for OpenCLIP's image towers.",
        )


def create_backbone(name: str, weights: str, image_size: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """A timm backbone without its classifier, and its data configuration (input_size, mean, std, interpolation).

    `weights`: `pretrained`, `none`, or a file (.safetensors, or a state dict that loads with weights_only). Raises
    DhoxError for unknown names (with the closest ones) and for weights that cannot be had or do not fit.
    """
    check_student_name(name)
    if weights == "pretrained" and "." in name:
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        if name not in tags:
            raise DhoxError(
                f"timm has no weights {name!r}.", f"{closest(name, tags)} Or use --student-weights none or FILE."
            )
    try:
        backbone = create_timm(name, image_size, pretrained=weights == "pretrained")
    except Exception as err:
        raise DhoxError(
            f"The student {name} could not be created ({err}).",
            "Without a network, pass --student-weights FILE with a "
            "local state dict, or --student-weights none to train from scratch.",
        ) from err
    if weights not in {"pretrained", "none"}:
        load_backbone_weights(backbone, name, Path(weights))
    data = timm.data.resolve_data_config({}, model=backbone)
    return backbone, data | {"image_size": image_size or data["input_size"][-1]}


def with_heads(backbone: nn.Module, image_size: int, classes: int, two_heads: bool, kd_kind: str = "linear") -> Student:
    """Put the heads on a backbone; the feature width is what one forward gives.

    Raises DhoxError where that is not one tensor of features [B, d].
    """
    backbone.eval()
    with torch.no_grad():
        z = backbone(torch.zeros(1, 3, image_size, image_size))
    if not isinstance(z, torch.Tensor) or z.ndim != 2:
        given = f"a tensor {list(z.shape)}" if isinstance(z, torch.Tensor) else f"a {type(z).__name__}"
        raise DhoxError(
            f"The student's backbone gives {given} for one image, not one tensor of features [1, d].",
            "Choose a student that pools its features.",
        )
    return Student(backbone, z.shape[-1], classes, two_heads, kd_kind)


def parameters_m(backbone: nn.Module) -> float:
    """Parameters, in millions."""
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6


def preprocessing_of(data: dict[str, Any]) -> Preprocessing:
    """Evaluation preprocessing: shorter side to the image size, centre crop, the backbone's mean and std."""
    size = data["image_size"]
    return Preprocessing(size, size, data["interpolation"], tuple(data["mean"]), tuple(data["std"]))


def save_student(student: Student, run: Path) -> None:
    """Write the weights; the file appears whole or not at all."""
    state = {name: tensor.contiguous().cpu() for name, tensor in student.state_dict().items()}
    write_bytes(run / WEIGHTS_FILE, save(unshared(state)))


def unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values, each in memory of its own, which a safetensors file needs: some students (CoaT) have one
    parameter under several names. Read back, each of them gives that parameter its one value."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return own


def load_student(run: Path, spec: StudentSpec) -> Student:
    """Rebuild the student of a run, in eval mode, from its weights file.

    Raises DhoxError for a file that does not hold it, and says so where a head is not linear.
    """
    if spec.tower is None:
        backbone, _ = create_backbone(spec.name, "none", spec.image_size)
    else:
        backbone = build_tower(spec.tower, spec.image_size)
    student = with_heads(backbone, spec.image_size, spec.classes, spec.two_heads, spec.kd_head)
    names: list[str] = []
    try:
        state = load_file(regular(run / WEIGHTS_FILE))
        names = list(state)
        student.load_state_dict(state)
    except Exception as err:
        nonlinear = [name for name in names if re.match(r"(ce|kd)_head\.\w+\.", name)]
        reason = f"its head is not one linear layer: {nonlinear[0]}" if nonlinear else " ".join(str(err).split())[:200]
        raise DhoxError(
            f"{run / WEIGHTS_FILE} does not hold the student that run.json describes ({reason}).", "Train it again."
        ) from err
    return student.eval()

"""What several files of the line hold: classes, preprocessing, accuracy rows, and who taught whom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.record import AtLeastOne, Count, Interval, Name, Positive, Record, Share

Side = Annotated[int, Meta(ge=1, le=8192, description="pixels")]
PerChannel = tuple[float, float, float]
KdHead = Literal["linear", "cosine-paper", "cosine-code"]
Metric = Literal["accuracy", "balanced", "macro-f1"]


class ClassEntry(Record):
    """One class; `prompt`: what the teacher's templates call it."""

    id: Count
    name: Name
    prompt: str


Classes = Annotated[list[ClassEntry], Meta(min_length=1, description="in index order")]


class Preprocessing(Record, omit_defaults=True):
    """The evaluation preprocessing that ships with a model.

    `resize`: length of the shorter side; `crop`: side of the centre crop; `mean`, `std`: per channel, for pixels in
    [0, 1], applied inside the exported graph. `squash`: both sides to `resize`, whatever the image's shape; models of
    other tools only.
    """

    resize: Side
    crop: Side
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: PerChannel
    std: tuple[Positive, Positive, Positive]
    squash: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Preprocessing:
        """Read what `to_json` wrote."""
        return msgspec.convert(content, cls)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest; `squash` only where it is set."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Accuracy(Record, kw_only=True):
    """Top-1 of `n` images with its 95 % interval (`dhox.evidence.statistics.accuracy_row` gives its fields)."""

    n: Count
    correct: Count
    accuracy: Share
    interval: Interval


class StudentSpec(Record):
    """What rebuilds a student from its weights file.

    `tower`: the configuration of an OpenCLIP image tower (see `build_tower`), or None.
    """

    name: Name
    image_size: Side
    classes: AtLeastOne
    two_heads: bool
    kd_head: KdHead = "linear"
    tower: dict[str, Any] | None = None


class StudentEntry(StudentSpec, kw_only=True):
    """A student and where it came from; None where training did not say."""

    weights: str
    init_heads: str | None = None
    init_from: str | None = None


class TeacherEntry(Record, kw_only=True):
    """A teacher. `scale` multiplies cosine similarities; None and empty: it was run elsewhere, as arrays."""

    name: Name
    weights_hash: str | None = None
    scale: float
    logit_bias: float | None = None
    templates: list[str] = msgspec.field(default_factory=list)
    views: AtLeastOne
    online: bool
    adapter: str = "none"

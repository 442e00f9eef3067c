"""What several files of the line hold: classes, preprocessing, accuracy rows, and who taught whom."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from dhox.artefacts.record import AtLeastOne, Count, Name, Positive, Record, Share, ShareInterval
from dhox.evidence.statistics import wilson_interval

LARGEST_SIDE = 8192  # of a preprocessing that dhox takes for real
Side = Annotated[int, Meta(ge=1, le=LARGEST_SIDE, description="pixels")]
Versions = dict[str, str]  # package, python and platform -> version
PerChannel = tuple[float, float, float]
KdHead = Literal["linear", "cosine-paper", "cosine-code"]
Metric = Literal["accuracy", "balanced", "macro-f1"]


A = TypeVar("A", bound="Accuracy")


class ClassEntry(Record):
    """One class; `prompt`: what the teacher's templates call it."""

    id: Count
    name: Name
    prompt: str


Classes = Annotated[list[ClassEntry], Meta(min_length=1, description="in index order")]


def class_entries(classes: list[tuple[str, str]]) -> list[ClassEntry]:
    """Classes from (label, prompt name) in index order."""
    return [ClassEntry(i, name, prompt) for i, (name, prompt) in enumerate(classes)]


def check_classes(classes: list[ClassEntry]) -> None:
    """Raise ValueError where the ids are not 0, 1, 2 ... or a name stands twice."""
    if [entry.id for entry in classes] != [*range(len(classes))]:
        raise ValueError("the ids of the classes are not 0, 1, 2 ... in this order")
    if len({entry.name for entry in classes}) < len(classes):
        raise ValueError("two classes have one name")


class Preprocessing(Record, omit_defaults=True):
    """The evaluation preprocessing that ships with a model.

    `resize`: length of the shorter side; `crop`: side of the centre crop; `mean`, `std`: per channel, for pixels in
    [0, 1], applied inside the exported graph. `squash`: both sides to `resize`, whatever the image's shape; models of
    other tools only. `decode`: scaled decodes a large JPEG at 1/2, 1/4 or 1/8 of its sides (see `jpeg_side`).
    """

    resize: Side
    crop: Side
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: PerChannel
    std: tuple[Positive, Positive, Positive]
    squash: bool = False
    decode: Literal["full", "scaled"] = "full"

    @property
    def jpeg_side(self) -> int | None:
        """The shorter side in pixels that a JPEG keeps when it is decoded scaled, so that the resize still halves it;
        None: every image is decoded in full."""
        return 2 * self.resize if self.decode == "scaled" else None

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} pixels does not fit into a side of {self.resize}")


class Accuracy(Record, kw_only=True):
    """Top-1 of `n` images with its 95 % interval."""

    n: Count
    correct: Count
    accuracy: Share
    interval: ShareInterval

    def __post_init__(self) -> None:
        if self.correct > self.n:
            raise ValueError(f"{self.correct} of {self.n} images cannot be right")

    @classmethod
    def of(cls: type[A], right: np.ndarray, **others: Any) -> A:
        """From bool [N], right or wrong; `others`: the fields that a subclass adds."""
        return cls.of_counts(int(right.sum()), len(right), **others)

    @classmethod
    def of_counts(cls: type[A], correct: int, n: int, **others: Any) -> A:
        """The same from how many of `n` are right."""
        accuracy = correct / n if n else 0.0
        return cls(n=n, correct=correct, accuracy=accuracy, interval=wilson_interval(correct, n), **others)


class Calibration(Accuracy, kw_only=True):
    """How sure a teacher is against how often it is right, on `images` with labels.

    `confidence`: mean top-1 probability. `error`: expected calibration error of it.
    """

    images: str
    confidence: Share
    error: Share


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
    """A teacher. `scale` multiplies cosine similarities; None and empty: it was run elsewhere, as arrays. `license`: as
    the model card beside its weights names it; None where that says nothing."""

    name: Name
    weights_hash: str | None = None
    scale: float
    logit_bias: float | None = None
    templates: list[str] = msgspec.field(default_factory=list)
    views: AtLeastOne
    online: bool
    adapter: str = "none"
    calibration: Annotated[Calibration | None, Meta(description="null where no image has a label")] = None
    license: str | None = None

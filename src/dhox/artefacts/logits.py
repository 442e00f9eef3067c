"""val.npz and test.npz: what both heads answer to whole images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import numpy as np

from dhox.artefacts.arrays import Array

VAL_FILE, TEST_FILE = "val.npz", "test.npz"

# N images, C classes, M unlabelled images.
H = TypeVar("H", bound="HeadLogits")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadLogits:
    """Both heads' logits of N images; students with one head have them twice.

    `z_norms` and `kd_bias`: |z|, and c of a cosine KD head V z/|z| + c, which its plain linear fold needs; None for
    others.
    """

    ce_logits: Annotated[np.ndarray, Array("float32", "N C")]
    kd_logits: Annotated[np.ndarray, Array("float32", "N C")]
    z_norms: Annotated[np.ndarray, Array("float32", "N", low=0)] | None = None
    kd_bias: Annotated[np.ndarray, Array("float32", "C")] | None = None

    def __len__(self) -> int:
        return len(self.ce_logits)

    @property
    def classes(self) -> int:
        """C."""
        return int(self.ce_logits.shape[1])

    def of(self: H, images: np.ndarray) -> H:
        """The same record of chosen images alone: bool [N], or their numbers."""
        rows = {name: getattr(self, name) for name in ROWS if getattr(self, name, None) is not None}
        return replace(self, **{name: array[images] for name, array in rows.items()})


ROWS = (  # over N
    "ce_logits", "kd_logits", "z_norms", "labels", "names", "groups", "teacher_predictions", "teacher_logits",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Logits(HeadLogits):
    """The content of val.npz and test.npz.

    `groups`: what must stay together where images are divided, empty for an image that has none; None where DATA has
    none. `teacher_predictions` and `teacher_logits`: the teacher's, None without one; test has no teacher logits.
    `unlabelled_...`: of unlabelled images, in val.npz where no labels choose alpha and beta.
    """

    labels: Annotated[np.ndarray, Array("int64", "N", low=0, below="C")]
    names: Annotated[np.ndarray, Array("str", "N")]
    groups: Annotated[np.ndarray, Array("str", "N")] | None = None
    teacher_predictions: Annotated[np.ndarray, Array("int64", "N", low=0, below="C")] | None = None
    teacher_logits: Annotated[np.ndarray, Array("float32", "N C")] | None = None
    unlabelled_ce_logits: Annotated[np.ndarray, Array("float32", "M C")] | None = None
    unlabelled_kd_logits: Annotated[np.ndarray, Array("float32", "M C")] | None = None
    unlabelled_z_norms: Annotated[np.ndarray, Array("float32", "M", low=0)] | None = None
    unlabelled_teacher_predictions: Annotated[np.ndarray, Array("int64", "M", low=0, below="C")] | None = None

    @property
    def unlabelled(self) -> HeadLogits | None:
        """The heads' logits of the unlabelled images, where there are some."""
        if self.unlabelled_ce_logits is None or self.unlabelled_kd_logits is None or not len(self.unlabelled_ce_logits):
            return None
        return HeadLogits(
            ce_logits=self.unlabelled_ce_logits, kd_logits=self.unlabelled_kd_logits, z_norms=self.unlabelled_z_norms,
            kd_bias=self.kd_bias,
        )  # fmt: skip

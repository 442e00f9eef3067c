"""heads.npz: the two heads as trained, from which the exported head is folded, and folded again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_args

import numpy as np

from dhox.artefacts.arrays import Array
from dhox.artefacts.common import KdHead

HEADS_FILE = "heads.npz"


@dataclass(frozen=True)
class Heads:
    """h_ce = ce_weight z + ce_bias; students with two heads also have the KD head, others None.

    There h_kd = kd_weight u + kd_bias, up to an offset that all classes share, with u = z for the kind `linear` and
    u = z/|z| for the cosine kinds, whose scale s and normalisation of W are already inside.
    """

    ce_weight: Annotated[np.ndarray, Array("float32", "C D")]
    ce_bias: Annotated[np.ndarray, Array("float32", "C")]
    kd_weight: Annotated[np.ndarray, Array("float32", "C D")] | None = None
    kd_bias: Annotated[np.ndarray, Array("float32", "C")] | None = None
    kd_head: Annotated[np.ndarray, Array("str", "")] | None = None  # one of KdHead

    def __post_init__(self) -> None:
        parts = [part is not None for part in (self.kd_weight, self.kd_bias, self.kd_head)]
        if any(parts) != all(parts):
            raise ValueError("holds only a part of the KD head")
        if self.kd_head is not None and str(self.kd_head) not in get_args(KdHead):
            raise ValueError(f"kd_head is {str(self.kd_head)!r}, one of {', '.join(get_args(KdHead))} was expected")

    @property
    def two(self) -> bool:
        """Whether there is a KD head."""
        return self.kd_weight is not None

    @property
    def cosine(self) -> bool:
        """Whether the KD head works on z/|z|."""
        return self.kd_head is not None and str(self.kd_head) != "linear"

    @property
    def kd(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight [C, D] and bias [C] of the KD head of a student that has one."""
        assert self.kd_weight is not None
        assert self.kd_bias is not None
        return self.kd_weight, self.kd_bias

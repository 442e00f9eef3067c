"""embeddings.npz: the features of the images that an export was checked with, by which unlike images are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dhox.artefacts.arrays import Array

EMBEDDINGS_FILE = "embeddings.npz"
EMBEDDING = "embedding"  # the graph's second output, float32 [B, D]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What the fp32 graph gives as EMBEDDING for N images by name."""

    names: Annotated[np.ndarray, Array("str", "N")]
    embedding: Annotated[np.ndarray, Array("float32", "N D")]
